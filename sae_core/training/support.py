"""Where the codes of a batch may differ from 0: as a list of entries, or as a whole matrix where that is faster.

Arithmetic on single codes is written once, for numbers at the support in whatever shape they come.
"""

from abc import ABC, abstractmethod
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_core.kernels.backend import Backend, Gradient, Precision, Reconstruction
from sae_core.kernels.codes import ByLatent, Codes
from sae_core.kernels.gradient import RowGradient
from sae_core.kernels.selection import above
from sae_core.kernels.sparse import decode, entry_gradients, latent_sums
from sae_core.training.ranks import Ranks


class Support(ABC):
    """Codes in use. `z` and everything "like z" has one number for each of them."""

    z: Tensor
    """Pre-activations at the support."""

    @abstractmethod
    def spread(self, vector: Float[Tensor, " d_sae"]) -> Tensor:
        """One number per latent, like z or broadcasting with it."""

    @abstractmethod
    def sums(self, numbers: Tensor) -> Float[Tensor, " d_sae"]:
        """Sum of the numbers of each latent."""

    @abstractmethod
    def fired(self, codes: Tensor) -> Int[Tensor, " d_sae"]:
        """Codes of each latent that are not 0."""

    @abstractmethod
    def reconstruct(self, codes: Tensor, W_dec: Tensor, b_dec: Tensor, target: Tensor, shards: Ranks) -> Reconstruction:
        """x̂' − target, where x̂' is a sum over shards, and its products with the decoder rows, like z."""

    @abstractmethod
    def decoder_gradient(self, codes: Tensor, error_gradient: Float[Tensor, "row d_model"]) -> Gradient:
        """Σ over rows of code · gradient in x̂', for each latent."""

    @abstractmethod
    def encoder_gradient(self, code_gradients: Tensor, centred: Float[Tensor, "batch d_model"]) -> Gradient:
        """Σ over rows of gradient in u · centred row, for each latent."""


@final
class SparseSupport(Support):
    """Entries sorted by latent."""

    def __init__(self, z: Codes, d_sae: int, backend: Backend, bags_per_row: int = 1) -> None:
        """Take pre-activations at the support, in the order of rows.

        Args:
            bags_per_row: into how many bags the entries of a row are cut; decoder gradients are then per bag.
        """
        self.backend, self.codes, self.bags_per_row = backend, z, bags_per_row
        self.entries: ByLatent = backend.transpose(z, d_sae)
        self.z = z.values[self.entries.order]

    def spread(self, vector: Float[Tensor, " d_sae"]) -> Tensor:
        return vector[self.entries.latents]

    def sums(self, numbers: Tensor) -> Float[Tensor, " d_sae"]:
        return latent_sums(numbers, self.entries, self.codes.batch)

    def fired(self, codes: Tensor) -> Int[Tensor, " d_sae"]:
        before = torch.zeros(len(codes) + 1, dtype=torch.int64, device=codes.device)
        torch.cumsum(codes != 0, 0, out=before[1:])
        return before[self.entries.offsets].diff()

    def in_rows(self, numbers: Float[Tensor, " entry"]) -> Codes:
        """Numbers sorted by latent as codes in the order of rows."""
        return self.codes._replace(values=torch.empty_like(numbers).index_copy_(0, self.entries.order, numbers))

    def reconstruct(self, codes: Tensor, W_dec: Tensor, b_dec: Tensor, target: Tensor, shards: Ranks) -> Reconstruction:
        if shards.size == 1:
            return self.backend.reconstruct(self.in_rows(codes), self.entries, W_dec, b_dec, target)
        error = shards.sum_(decode(self.in_rows(codes), W_dec)).add_(b_dec).sub_(target)
        return Reconstruction(error, entry_gradients(error, W_dec, self.entries))

    def decoder_gradient(self, codes: Tensor, error_gradient: Float[Tensor, "row d_model"]) -> Gradient:
        return RowGradient(self.entries, codes, error_gradient)

    def encoder_gradient(self, code_gradients: Tensor, centred: Float[Tensor, "batch d_model"]) -> Gradient:
        rows = self.entries.rows if self.bags_per_row == 1 else self.entries.rows // self.bags_per_row
        return RowGradient(self.entries._replace(rows=rows), code_gradients, centred)


@final
class DenseSupport(Support):
    """All codes of a batch, those outside a mask held at 0."""

    def __init__(self, z: Float[Tensor, "row d_sae"], mask: Bool[Tensor, "row d_sae"], precision: Precision) -> None:
        self.z, self.mask, self.precision = z, mask, precision

    def spread(self, vector: Float[Tensor, " d_sae"]) -> Tensor:
        return vector

    def sums(self, numbers: Tensor) -> Float[Tensor, " d_sae"]:
        return (numbers * self.mask).sum(0)

    def fired(self, codes: Tensor) -> Int[Tensor, " d_sae"]:
        return ((codes != 0) & self.mask).sum(0)

    def reconstruct(self, codes: Tensor, W_dec: Tensor, b_dec: Tensor, target: Tensor, shards: Ranks) -> Reconstruction:
        error = shards.sum_(self._product(codes * self.mask, W_dec)).add_(b_dec).sub_(target)
        return Reconstruction(error, self._product(error, W_dec.T))

    def decoder_gradient(self, codes: Tensor, error_gradient: Float[Tensor, "row d_model"]) -> Gradient:
        return self._product((codes * self.mask).T, error_gradient)

    def encoder_gradient(self, code_gradients: Tensor, centred: Float[Tensor, "batch d_model"]) -> Gradient:
        return self._product((code_gradients * self.mask).T, centred)

    def _product(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ b if self.precision == "fp32" else (a.bfloat16() @ b.bfloat16()).float()


def support_above(
    z: Float[Tensor, "row d_sae"], threshold: Float[Tensor, " d_sae"], backend: Backend, precision: Precision, replicas: Ranks
) -> Support:
    """Where z exceeds its latent's threshold, as entries or, for all replicas, as a matrix if that is faster for one of them.

    On a GPU the count would make the device wait; a matrix it is, always.
    """
    mask = z > threshold
    if z.is_cuda or replicas.any(int(mask.sum()) > backend.dense_from * z.numel()):
        return DenseSupport(z, mask, precision)
    return SparseSupport(above(z, threshold), z.shape[1], backend)
