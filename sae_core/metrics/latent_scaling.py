"""Whether a frozen SAE already explains what a latent of another SAE contributes: latent scaling from sums over rows."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from sae_core.kernels.codes import Codes
from sae_core.kernels.sparse import by_latent, entry_gradients


class ScalingSums(NamedTuple):
    """Sums over rows in float64, per latent; e and r are error and reconstruction of the frozen SAE. `a + b` merges two streams."""

    squares: Float64[Tensor, " d_sae"]
    """Σf²."""
    on_error: Float64[Tensor, " d_sae"]
    """Σf⟨e,d⟩."""
    on_reconstruction: Float64[Tensor, " d_sae"]
    """Σf⟨r,d⟩."""

    def __add__(self, other: "ScalingSums") -> "ScalingSums":  # type: ignore[override]  # sums add up
        """Sums of both streams; both must be of the same SAEs and centre."""
        return ScalingSums(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


class Scaling(NamedTuple):
    """How the contribution f·d of each latent is found again in what a frozen SAE makes of the same rows; NaN if it never fires."""

    on_error: Float64[Tensor, " d_sae"]
    """β_e = Σf⟨e,d⟩/(‖d‖²Σf²): how much of it the frozen SAE leaves in its error."""
    on_reconstruction: Float64[Tensor, " d_sae"]
    """β_r = Σf⟨r,d⟩/(‖d‖²Σf²): how much of it the frozen SAE reconstructs."""
    unexplained: Float64[Tensor, " d_sae"]
    """ν = β_e/(β_e + β_r): 0 if the frozen SAE explains it all, 1 if nothing of it; NaN where β_e + β_r is not above 0."""


def scaling_sums(
    codes: Codes,
    W_dec: Float[Tensor, "d_sae d_model"],
    x: Float[Tensor, "row d_model"],
    x_hat: Float[Tensor, "row d_model"],
    centre: Float[Tensor, " d_model"],
) -> ScalingSums:
    """The sums of one batch of rows.

    Args:
        codes: of the rows, by the SAE whose latents are asked about; the unit of the activations drops out of ν.
        W_dec: its decoder, the directions d.
        x: rows in original units.
        x_hat: their reconstruction by the frozen SAE: e = x − x̂.
        centre: near the mean of the rows; r = x̂ − c, because the constant part of rows is no latent's contribution.
    """
    entries = by_latent(codes, len(W_dec))
    f, targets = codes.values[entries.order].double(), (x - x_hat, x_hat - centre.to(x_hat))
    columns = torch.stack([f, *(entry_gradients(target, W_dec, entries).double() for target in targets)], dim=1)
    sums = torch.zeros(len(W_dec), 3, dtype=torch.float64, device=f.device)
    if len(f):
        places = torch.arange(len(f), device=f.device)
        sums = torch.nn.functional.embedding_bag(places, f[:, None] * columns, entries.offsets[:-1], mode="sum")
    return ScalingSums(*sums.unbind(1))


def scaling(sums: ScalingSums, W_dec: Float[Tensor, "d_sae d_model"]) -> Scaling:
    """Closed-form scales of every latent, and the share that the frozen SAE does not explain.

    β = argmin Σ‖target − β·f·d‖².

    Source: latent scaling of Minder et al. 2025, arXiv 2504.02922, there between two models, here between two stages.
    """
    unit = W_dec.double().square().sum(1) * sums.squares
    on_error, on_reconstruction = sums.on_error / unit, sums.on_reconstruction / unit
    both = on_error + on_reconstruction
    return Scaling(on_error, on_reconstruction, torch.where(both > 0, on_error / both, torch.nan))
