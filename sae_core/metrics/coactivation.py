"""Correlation of activations between latents of two SAEs on paired rows, for chosen pairs of latents alone."""

from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from sae_core.kernels.codes import ByLatent, Codes
from sae_core.kernels.sparse import by_latent

Pairs = Int64[Tensor, "pair 2"]
"""Latents of the first and of the second SAE whose activations are compared."""


class CoactivationSums(NamedTuple):
    """Sums over paired rows in float64; f activations under the first SAE, g under the second. `a + b` merges two streams."""

    n: Float64[Tensor, ""]
    """Rows."""
    first: Float64[Tensor, "d_first 2"]
    """Σf and Σf² of each latent."""
    second: Float64[Tensor, "d_second 2"]
    """Σg and Σg² of each latent."""
    product: Float64[Tensor, " pair"]
    """Σfg of each pair."""

    def __add__(self, other: "CoactivationSums") -> "CoactivationSums":  # type: ignore[override]  # sums add up
        """Sums of both streams; both must be of the same pairs."""
        return CoactivationSums(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


def coactivation_sums(first: Codes, second: Codes, pairs: Pairs, d_first: int, d_second: int) -> CoactivationSums:
    """The sums of one batch of paired rows; work grows with the entries of the first codes × pairs per latent.

    Args:
        first: codes of the rows by the first SAE.
        second: codes of the same rows, or of the same positions under another policy, by the second.
        pairs: a latent of the first and one of the second, in any order.
        d_first: latents of the first SAE.
        d_second: latents of the second; a dense batch × d_second is formed.
    """
    assert first.batch == second.batch
    mine, theirs, dense = by_latent(first, d_first), by_latent(second, d_second), second.dense(d_second)
    f, g = first.values[mine.order].double(), second.values[theirs.order].double()
    own, other = (_segments(torch.stack([v, v.square()], dim=1), e.offsets) for v, e in ((f, mine), (g, theirs)))
    places, starts = _entries_of_pairs(mine, pairs[:, 0])
    partner = torch.repeat_interleave(pairs[:, 1], starts.diff(), output_size=len(places))
    products = f[places] * dense[mine.rows[places], partner].double()
    return CoactivationSums(f.new_tensor(first.batch), own, other, _segments(products[:, None], starts)[:, 0])


def correlations(sums: CoactivationSums, pairs: Pairs) -> Float64[Tensor, " pair"]:
    """Pearson correlation of f and g over all paired rows, zeros included, per pair; NaN where either does not vary."""
    mean_f, mean_g = sums.first[pairs[:, 0]] / sums.n, sums.second[pairs[:, 1]] / sums.n
    variance = (mean_f[:, 1] - mean_f[:, 0].square()) * (mean_g[:, 1] - mean_g[:, 0].square())
    covariance = sums.product / sums.n - mean_f[:, 0] * mean_g[:, 0]
    return torch.where(variance > 0, covariance / variance.clamp(min=0).sqrt(), torch.nan)


def _entries_of_pairs(entries: ByLatent, latents: Tensor) -> tuple[Tensor, Tensor]:
    """Places of the sorted entries of each listed latent one after the other, and where each one's begin, the count of all last."""
    counts = entries.offsets.diff()[latents]
    starts = torch.zeros(len(latents) + 1, dtype=torch.int64, device=latents.device)
    torch.cumsum(counts, 0, out=starts[1:])
    shift = torch.repeat_interleave(entries.offsets[:-1][latents] - starts[:-1], counts, output_size=int(starts[-1]))
    return torch.arange(len(shift), device=latents.device) + shift, starts


def _segments(columns: Tensor, offsets: Tensor) -> Tensor:
    """Sums of consecutive runs of rows, in their order: repeatable to the bit, on a GPU too."""
    if not len(columns):
        return columns.new_zeros(len(offsets) - 1, columns.shape[1])
    places = torch.arange(len(columns), device=columns.device)
    return torch.nn.functional.embedding_bag(places, columns, offsets[:-1], mode="sum")
