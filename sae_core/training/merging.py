"""What ranks found apart put together: the largest of their values, and gradients of their rows."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_core.kernels.backend import Backend, Gradient
from sae_core.kernels.codes import Codes
from sae_core.kernels.gradient import RowGradient
from sae_core.kernels.sparse import by_latent, topk_rows
from sae_core.training.ranks import Ranks

NAN_KEY = (1 << 32) - 1
"""Above the key of every number."""


def merged_topk(codes: Codes, k: int, absolute: bool, shards: Ranks) -> Codes:
    """Of the largest values of each shard, equally many in every row, those among the k largest of the row in all shards."""
    if shards.size == 1:
        return codes
    values = codes.values.view(codes.batch, -1)
    return codes.only(among_largest(values.abs() if absolute else values, k, shards).reshape(-1))


def among_largest(values: Float[Tensor, "row candidate"], k: int, shards: Ranks) -> Bool[Tensor, "row candidate"]:
    """Which candidates are among the k largest of their row in all shards, of equal ones always the same; NaN counts as largest.

    Args:
        values: of each shard the k largest, or all it has; no more than k.
    """
    batch, own = values.shape
    padded = values.new_full((batch, k), -torch.inf)
    padded[:, :own] = values.clamp_min(torch.finfo(values.dtype).min)  # above what stands for no candidate
    table = shards.stacked(padded).transpose(0, 1).reshape(batch, shards.size * k)
    chosen = torch.zeros_like(table, dtype=torch.bool).scatter_(1, topk_rows(table, k)[1], True)
    return chosen.view(batch, shards.size, k)[:, shards.index, :own]


def merged_batch_topk(z: Float[Tensor, "row d_sae"], total: int, ranks: Ranks, backend: Backend) -> Codes:
    """The entries of this rank that are among the `total` largest of all ranks; of equal ones those of the first ranks."""
    kept = backend.batch_topk(z, min(total, z.numel()))
    return kept if ranks.size == 1 else kept.only(_among_largest_of_all(kept.values, total, ranks))


def _among_largest_of_all(values: Float[Tensor, " value"], total: int, ranks: Ranks) -> Bool[Tensor, " value"]:
    """Radix selection: the total-th largest key byte by byte, from counts of values per byte, which alone are sent."""
    keys = _rising_keys(values)
    inside, least, left = keys, 0, total
    for shift in (24, 16, 8, 0):
        digits = (inside >> shift) & 0xFF
        counts = ranks.sum_(torch.bincount(digits, minlength=256))
        at_least = counts.flip(0).cumsum(0).flip(0)
        digit = int((at_least >= left).sum()) - 1
        left -= int(at_least[digit] - counts[digit])
        least |= digit << shift
        inside = inside[digits == digit]
    equal = keys == least
    before = sum(ranks.numbers(int(equal.sum()))[: ranks.index])
    return (keys > least) | (equal & (equal.cumsum(0) <= left - before))


def _rising_keys(values: Float[Tensor, " value"]) -> Int[Tensor, " value"]:
    """Whole numbers below 2³² in the order of the values."""
    bits = values.contiguous().view(torch.int32).to(torch.int64)
    ordered = torch.where(bits < 0, -1 - (bits & 0x7FFFFFFF), bits) + (1 << 31)
    return ordered.masked_fill_(values.isnan(), NAN_KEY)


def merged_gradients(first: Gradient, second: Gradient, replicas: Ranks) -> tuple[Gradient, Gradient]:
    """Sums over replicas of two gradients made of the same entries; replicas must agree on which are written out already.

    A batch of fewer rows than the SAE has latents is sent, with its entries, rather than the matrices; everyone then adds them up
    in the order of one process.
    """
    if replicas.size == 1:
        return first, second
    if isinstance(first, RowGradient) and isinstance(second, RowGradient):
        rows = replicas.size * max(len(first.rows), len(second.rows))
        if rows < len(first.entries.offsets) - 1:
            return _joined(first, second, replicas)
    first, second = (one.written_out() if isinstance(one, RowGradient) else one for one in (first, second))
    return replicas.sum_(first), replicas.sum_(second)


def _joined(first: RowGradient, second: RowGradient, replicas: Ranks) -> tuple[RowGradient, RowGradient]:
    """Both gradients over the entries of all replicas, those of one latent in the order of replicas and then of rows."""
    both = (first, second)
    places = [first.entries.latents, *(one.entries.rows + replicas.index * len(one.rows) for one in both)]
    numbers = torch.stack([one.coefficients for one in both], 1).view(torch.int32)
    table = replicas.joined(torch.cat([torch.stack(places, 1).to(torch.int32), numbers], 1)).T.contiguous()
    latents, *rows = table[:3].to(first.entries.latents.dtype)
    ends, coefficients = latents.new_tensor([0, len(latents)]), table[3:].view(torch.float32)
    merged = by_latent(Codes(ends, latents, coefficients[0]), len(first.entries.offsets) - 1)
    found = [
        RowGradient(
            merged._replace(rows=its_rows[merged.order]),
            its_numbers[merged.order],
            replicas.stacked(one.rows).flatten(0, 1),
            one.extra and one.extra._replace(rows=replicas.sum_(one.extra.rows)),
        )
        for one, its_rows, its_numbers in zip(both, rows, coefficients, strict=True)
    ]
    return found[0], found[1]
