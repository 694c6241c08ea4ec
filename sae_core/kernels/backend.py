"""What a backend computes: the operations in which an update spends its time. All give the same results to rounding."""

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple, TypeAlias

from jaxtyping import Float
from torch import Tensor

from sae_core.kernels.codes import ByLatent, Codes
from sae_core.kernels.gradient import AdamStep, Matrix, RowGradient
from sae_core.kernels.selection import above, batch_topk

Gradient: TypeAlias = RowGradient | Tensor
"""Of a latent-major matrix: as sums over entries, or written out."""

Precision: TypeAlias = Literal["fp32", "bf16"]
"""Of the products with W_enc and of dense products. `fp32` gives what float32 gives, however a backend finds it; with `bf16` both
factors are rounded to bfloat16 first. Weights, moments, sums and everything sparse stay float32."""


class Reconstruction(NamedTuple):
    """What decoding a batch gives."""

    error: Float[Tensor, "row d_model"]
    """x̂ − target."""
    dots: Float[Tensor, " entry"]
    """⟨error[row], W_dec[latent]⟩ of each entry, sorted by latent."""


class Backend(ABC):
    """The operations of an update on one device; every result is repeatable to the bit."""

    name: str
    """`torch`, `native` or `triton`."""
    detail: str
    """How it computes here, for the log and the manifest."""
    dense_from: float
    """Share of codes in use from which whole matrices are faster than entries."""

    @abstractmethod
    def matrix(self, weights: Float[Tensor, "d_sae d_model"], selects: bool) -> Matrix:
        """Weights, shared and not copied, with moments of 0. `selects`: it is an encoder, `topk` will be asked of it."""

    @abstractmethod
    def encoder(self, weights: Float[Tensor, "d_sae d_model"]) -> Matrix:
        """Weights, shared and not copied, that stay as they are: only `topk` will be asked of them, and moments are left out."""

    @abstractmethod
    def refresh(self, matrix: Matrix) -> None:
        """Take note that the weights were changed from outside."""

    @abstractmethod
    def topk(
        self,
        centred: Float[Tensor, "row d_model"],
        encoder: Matrix,
        b_enc: Float[Tensor, " d_sae"],
        k: int,
        absolute: bool,
        precision: Precision,
    ) -> Codes:
        """z = centred · Wᵀ + b of the k latents of each row with the largest z, or |z|; exact, of equal ones any.

        In `fp32` the set is that of a float32 product, whatever was used to find it. NaN counts as largest.
        """

    def above(self, z: Float[Tensor, "row d_sae"], threshold: Float[Tensor, " d_sae"] | Float[Tensor, ""]) -> Codes:
        """As `selection.above`."""
        return above(z, threshold)

    def batch_topk(self, z: Float[Tensor, "row d_sae"], total: int) -> Codes:
        """As `selection.batch_topk`."""
        return batch_topk(z, total)

    @abstractmethod
    def transpose(self, codes: Codes, d_sae: int) -> ByLatent:
        """The entries sorted by latent, stably."""

    @abstractmethod
    def reconstruct(
        self,
        codes: Codes,
        entries: ByLatent,
        W_dec: Float[Tensor, "d_sae d_model"],
        b_dec: Float[Tensor, " d_model"],
        target: Float[Tensor, "row d_model"],
    ) -> Reconstruction:
        """Decode, subtract the target, and multiply the error with the decoder rows of the entries."""

    @abstractmethod
    def prepared(self, gradient: Gradient) -> Gradient:
        """The gradient in the form in which this backend uses it twice, for its norm and for Adam."""

    @abstractmethod
    def squared_norm(self, gradient: Gradient) -> Float[Tensor, ""]:
        """Σ of squares of a prepared gradient."""

    @abstractmethod
    def adam_(self, matrix: Matrix, gradient: Gradient, step: AdamStep) -> None:
        """One step of Adam on a prepared gradient, in place."""
