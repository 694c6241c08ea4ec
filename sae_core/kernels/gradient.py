"""What the optimiser is handed: gradients of latent-major matrices that need not exist as matrices."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_core.kernels.codes import ByLatent
from sae_core.kernels.sparse import weight_gradient


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
        """At least the Frobenius norm of the gradient: ‖coefficients‖ ‖rows‖ and that of the extra rows.

        The gradient is CᵀR with the sparse C of the coefficients, and ‖CᵀR‖ ≤ ‖C‖ ‖R‖ in Frobenius norms.
        """
        bound = torch.linalg.vector_norm(self.coefficients) * torch.linalg.vector_norm(self.rows)
        return bound if self.extra is None else bound + torch.linalg.vector_norm(self.extra.rows)


@dataclass
class Matrix:
    """Latent-major weights [d_sae, d_model] with their moments of Adam, trained in place."""

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
