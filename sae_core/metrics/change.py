"""The change of paired rows between two stages, Δ = x_t − x_0, from sums per prompt: its size, its mean, its share in a dictionary.

`weights` are how often each prompt counts, one row per bootstrap replicate; without them every prompt counts once.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from sae_core.metrics.prompt_sums import Weights, sums_by_prompt, total

INDEPENDENT = 1e-6
"""Directions whose singular value is below this share of the largest do not widen a span."""


class ChangeSums(NamedTuple):
    """Sums over the paired rows of each prompt, in float64. `a + b` merges two streams."""

    n: Float64[Tensor, " prompt"]
    """Rows."""
    squared: Float64[Tensor, " prompt"]
    """Σ‖Δ‖²."""
    delta: Float64[Tensor, "prompt d_model"]
    """ΣΔ."""
    inside: Float64[Tensor, "prompt span"]
    """Σ‖QᵀΔ‖² for each span, Q its orthonormal basis."""

    def __add__(self, other: "ChangeSums") -> "ChangeSums":  # type: ignore[override]  # sums add up
        """Sums of both streams; both must be taken over the same spans."""
        return ChangeSums(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    @classmethod
    def zeros(cls, n_prompts: int, d_model: int, spans: int, device: torch.device | str = "cpu") -> "ChangeSums":
        """Sums over no rows: where a stream starts."""
        shapes = ((n_prompts,), (n_prompts,), (n_prompts, d_model), (n_prompts, spans))
        return cls(*(torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes))


def decoder_span(
    W_dec: Float[Tensor, "d_sae d_model"], weight: Float[Tensor, " d_sae"] | Int[Tensor, " d_sae"], directions: int
) -> Float64[Tensor, "d_model rank"]:
    """An orthonormal basis of the span of the decoder rows with the largest weights, in float64.

    Args:
        W_dec: decoder, a direction per row.
        weight: what ranks latents, for example how much energy Σf² they carry; of equal weights the lower index comes first.
        directions: how many rows span it; the rank is less where they depend on each other.

    Raises:
        ValueError: directions is not between 1 and d_sae.
    """
    if not 1 <= directions <= len(W_dec):
        raise ValueError(
            f"A span must have between 1 and d_sae = {len(W_dec)} directions; got {directions}. Ask for no more than its latents."
        )
    chosen = torch.argsort(weight, descending=True, stable=True)[:directions]
    _, sizes, basis = torch.linalg.svd(W_dec[chosen].double(), full_matrices=False)
    return basis[sizes > INDEPENDENT * sizes[0]].T.contiguous()


def change_sums(
    before: Float[Tensor, "batch d_model"],
    after: Float[Tensor, "batch d_model"],
    prompt_index: Int[Tensor, " batch"],
    n_prompts: int,
    spans: Sequence[Float[Tensor, "d_model _"]],
) -> ChangeSums:
    """The sums of one batch of paired rows, sinks dropped.

    Args:
        before: rows of the earlier stage, in original units.
        after: the same positions under the later stage.
        prompt_index: prompt of each row, 0 … n_prompts − 1, in any order.
        n_prompts: prompts of the whole evaluation set.
        spans: orthonormal bases, see `decoder_span`.
    """
    delta = after.double() - before.double()
    inside = [(delta @ basis.double()).square().sum(1) for basis in spans]
    scalars = torch.stack([torch.ones_like(delta[:, 0]), delta.square().sum(1), *inside], dim=1)
    per_prompt = sums_by_prompt(scalars, prompt_index, n_prompts)
    return ChangeSums(per_prompt[:, 0], per_prompt[:, 1], sums_by_prompt(delta, prompt_index, n_prompts), per_prompt[:, 2:])


def mean_squared_change(sums: ChangeSums, weights: Weights = None) -> Float64[Tensor, "*replicate"]:
    """Σ‖Δ‖²/n: squared change per row, summed over dimensions."""
    return total(sums.squared, weights) / total(sums.n, weights)


def mean_shift_share(sums: ChangeSums, weights: Weights = None) -> Float64[Tensor, "*replicate"]:
    """‖μ_t−μ_0‖² / (Σ‖Δ‖²/n): share of the change that is one shift of all rows; the rest is centred. NaN if nothing changed.

    ‖μ_t−μ_0‖² + Σ‖Δ−Δ̄‖²/n = Σ‖Δ‖²/n, so 0 … 1. Change that is independent from prompt to prompt still gives up to 1 / prompts.
    """
    n = total(sums.n, weights)
    return total(sums.delta, weights).square().sum(-1) / (n * total(sums.squared, weights))


def inside_share(sums: ChangeSums, weights: Weights = None) -> Float64[Tensor, "*replicate span"]:
    """Σ‖QᵀΔ‖²/Σ‖Δ‖²: share of the change in each span, the rest lies outside; NaN if nothing changed.

    An isotropic change has rank/d_model of itself in any span: read it beside that and beside `representation.variance_inside`.
    """
    return total(sums.inside, weights) / total(sums.squared, weights)[..., None]
