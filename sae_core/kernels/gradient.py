"""What the optimiser is handed: gradients of latent-major matrices that need not exist as matrices."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_core.kernels.codes import ByLatent
from sae_core.kernels.sparse import latent_sums, weight_gradient


class ExtraRows(NamedTuple):
    """Gradients of a few latents that come on top."""

    latents: Int[Tensor, " extra"]
    """Each once."""
    rows: Float[Tensor, "extra d_model"]


class RowGradient(NamedTuple):
    """Gradient of a matrix [d_sae, d_model] as sums over entries: row f is Σ coefficient · rows[row] over the entries of latent f.

    Once it is written out it is as large as the matrix; a fused optimiser builds each row where it uses it.
    """

    entries: ByLatent
    coefficients: Float[Tensor, " entry"]
    """One per entry, sorted by latent."""
    rows: Float[Tensor, "row d_model"]
    extra: ExtraRows | None = None

    def written_out(self) -> Float[Tensor, "d_sae d_model"]:
        """The gradient as a matrix."""
        found = weight_gradient(self.coefficients, self.entries, self.rows)
        if self.extra is not None:
            found.index_add_(0, self.extra.latents, self.extra.rows)
        return found

    def norm_bound(self) -> Float[Tensor, ""]:
        """At least the Frobenius norm of the gradient, from norms of the summands.

        ‖Σ coefficient · row‖ ≤ Σ |coefficient| ‖row‖ for each latent; squares of the latents add up. It is never above ‖C‖ ‖R‖ with
        the matrices of the coefficients and of the rows, and far below where latents have few of a batch's rows.
        """
        sizes = torch.linalg.vector_norm(self.rows, dim=1).index_select(0, self.entries.rows) * self.coefficients.abs()
        bound = torch.linalg.vector_norm(latent_sums(sizes, self.entries, len(self.rows)))
        return bound if self.extra is None else bound + torch.linalg.vector_norm(self.extra.rows)


@dataclass
class Matrix:
    """Latent-major weights [d_sae, d_model] with their moments of Adam, trained in place; moments may be empty where none are."""

    weights: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    shadow: Tensor | None = None
    """A copy in bfloat16 from which a backend may choose candidates; it follows the weights."""


class AdamStep(NamedTuple):
    """One step of Adam (Kingma and Ba 2015, algorithm 1), without weight decay."""

    lr: float | Tensor
    """It, `count` and `shrink` may be single numbers on the device: a captured CUDA graph reads them at every replay."""
    count: int | Tensor
    """Steps done with this one, from 1; the same for all latents, whether they fired or not."""
    shrink: float | Tensor = 1.0
    """Every gradient is multiplied by it first: the clip by global norm."""
    unit_rows: bool = False
    """Each row of the weights gets norm 1 afterwards."""
    project: bool = False
    """Each row of the gradient first loses its part along the row of the weights (Bricken et al. 2023)."""
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
