"""Sparse codes of a batch, in the order of rows and in the order of latents."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Codes(NamedTuple):
    """Sparse codes, row by row: those of row b are the entries offsets[b] … offsets[b + 1] − 1, in no particular order.

    For SAEs that reconstruct at several widths a row is cut into as many bags, and bags stand for rows here.
    """

    offsets: Int[Tensor, " row_and_one"]
    """Where the entries of each row begin; the last number is the count of all."""
    latents: Int[Tensor, " entry"]
    """Latent of each entry; within a row each at most once."""
    values: Float[Tensor, " entry"]
    """Activation of each entry; it may be 0, the latent is then not active."""

    @property
    def batch(self) -> int:
        """Rows."""
        return len(self.offsets) - 1

    def rows(self) -> Int[Tensor, " entry"]:
        """Row of each entry."""
        counts = self.offsets.diff()
        return torch.repeat_interleave(torch.arange(self.batch, device=counts.device), counts, output_size=len(self.latents))

    def active(self) -> "Codes":
        """The entries that are not 0."""
        return self.only(self.values != 0)

    def only(self, kept: Bool[Tensor, " entry"]) -> "Codes":
        """Some of the entries."""
        before = torch.zeros(len(kept) + 1, dtype=torch.int64, device=kept.device)
        torch.cumsum(kept, 0, out=before[1:])
        return Codes(before[self.offsets], self.latents[kept], self.values[kept])

    def active_per_row(self) -> Int[Tensor, " row"]:
        """Active latents of each row."""
        return self.active().offsets.diff()

    def dense(self, d_sae: int) -> Float[Tensor, "row d_sae"]:
        """Codes of all latents, 0 where there is no entry."""
        found = self.values.new_zeros(self.batch, d_sae)
        found[self.rows(), self.latents] = self.values
        return found


def equally_many(latents: Int[Tensor, "row k"], values: Float[Tensor, "row k"]) -> Codes:
    """Codes with k entries in every row."""
    batch, k = latents.shape
    offsets = torch.arange(0, batch * k + 1, k, device=latents.device)
    return Codes(offsets, latents.reshape(-1), values.reshape(-1))


class ByLatent(NamedTuple):
    """Where the entries of codes stand once they are sorted by latent; entries of one latent keep the order of their rows."""

    offsets: Int[Tensor, " d_sae_and_one"]
    """Where each latent's entries begin; the last number is the count of all."""
    order: Int[Tensor, " entry"]
    """Place in the codes of each sorted entry."""
    rows: Int[Tensor, " entry"]
    """Row of each sorted entry."""
    latents: Int[Tensor, " entry"]
    """Latent of each sorted entry, rising."""
