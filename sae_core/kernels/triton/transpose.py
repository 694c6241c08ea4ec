"""Entries of codes in the order of latents: one stable sort of narrow keys, one kernel; nothing is read back."""

from typing import no_type_check

import torch
import triton
import triton.language as tl

from sae_core.kernels.codes import ByLatent, Codes
from sae_core.kernels.triton.launch import launch, share_of

BLOCK = 256
"""Entries, and latents, of a program."""


@triton.jit
@no_type_check
def _count_below(numbers, total, limit, STEPS):
    """How many of ascending numbers are smaller than the limit."""
    low = tl.zeros_like(limit)
    high = low + total
    for _ in range(STEPS):
        middle = (low + high) // 2
        smaller = (low < high) & (tl.load(numbers + middle, low < high, other=0).to(tl.int64) < limit)
        low = tl.where(smaller, middle + 1, low)
        high = tl.where(smaller, high, middle)
    return low


@triton.jit
@no_type_check
def _index_kernel(
    keys, order, row_offsets, offsets, rows, latents, entries, batch, d_sae, STEPS: tl.constexpr, BLOCK: tl.constexpr
):
    here = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    place = tl.load(order + here, here < entries, other=0)
    # offsets up to the place belong to rows before its own, and to its own
    tl.store(rows + here, _count_below(row_offsets, batch + 1, place + 1, STEPS) - 1, here < entries)
    tl.store(latents + here, tl.load(keys + here, here < entries, other=0).to(tl.int64), here < entries)
    tl.store(offsets + here, _count_below(keys, entries, here, STEPS), here <= d_sae)


def by_latent(codes: Codes, d_sae: int) -> ByLatent:
    """The entries sorted by latent, those of one latent in the order of rows."""
    # a radix sort goes over the keys once per byte
    keys, order = torch.sort(codes.latents.to(torch.int16 if d_sae <= 1 << 15 else torch.int32), stable=True)
    entries = len(keys)
    found = ByLatent(order.new_empty(d_sae + 1), order, torch.empty_like(order), torch.empty_like(order))
    steps = (max(entries, codes.batch + 1)).bit_length()
    launch(
        _index_kernel, (share_of(max(entries, d_sae + 1), BLOCK),), keys, order, codes.offsets, found.offsets, found.rows,
        found.latents, entries, codes.batch, d_sae, STEPS=steps, BLOCK=BLOCK, warps=4,
    )  # fmt: skip
    return found
