"""The k largest of a row's candidates; of rows with too many, the k largest of all scores. Of equal ones the first are kept."""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from sae_core.kernels.triton.candidates import Candidates, scores_of
from sae_core.kernels.triton.launch import launch, power_of_two
from sae_core.kernels.triton.ordering import ABSENT, ALL_BITS, key_of, kth_largest, ranked

BLOCK = 2048
"""Scores looked at together where all must be."""


@triton.jit
@no_type_check
def _kept(keys, threshold, spare):
    """1 where a key is above the threshold, or at it and among the first `spare`."""
    equal = (keys == threshold).to(tl.int32)
    return (keys > threshold).to(tl.int32) | (equal & (tl.cumsum(equal, 0) <= spare).to(tl.int32))


@triton.jit
@no_type_check
def _keep_listed(row, count, latents, values, out_latents, out_values, k, ABSOLUTE, STEPS, CAPACITY):
    place = tl.arange(0, CAPACITY)
    latent = tl.load(latents + row * CAPACITY + place, place < count, other=0)
    z = tl.load(values + row * CAPACITY + place, place < count, other=0.0)
    keys = tl.where(place < count, key_of(ranked(z, ABSOLUTE)), ABSENT)
    threshold = kth_largest(keys, k, STEPS)
    kept = _kept(keys, threshold, k - tl.sum((keys > threshold).to(tl.int32), 0))
    target = row * k + tl.cumsum(kept, 0) - 1
    tl.store(out_latents + target, latent.to(tl.int64), kept > 0)
    tl.store(out_values + target, z, kept > 0)


@triton.jit
@no_type_check
def _keys(scores, bias, row, latent, d_sae, ABSOLUTE):
    keys = key_of(ranked(scores_of(scores, bias, row, latent, d_sae), ABSOLUTE))
    return tl.where(latent < d_sae, keys, ABSENT)


@triton.jit
@no_type_check
def _keep_of_all(row, scores, bias, out_latents, out_values, d_sae, k, ABSOLUTE, STEPS, BLOCK):
    threshold = tl.cast(ABSENT, tl.int32)
    bit = threshold
    for _ in range(STEPS):
        higher = threshold ^ bit
        count = 0
        for start in range(0, d_sae, BLOCK):
            keys = _keys(scores, bias, row, start + tl.arange(0, BLOCK), d_sae, ABSOLUTE)
            count += tl.sum((keys >= higher).to(tl.int32), 0)
        threshold = tl.where(count >= k, higher, threshold)
        bit = (bit >> 1) & 0x7FFFFFFF
    spare = k
    for start in range(0, d_sae, BLOCK):
        keys = _keys(scores, bias, row, start + tl.arange(0, BLOCK), d_sae, ABSOLUTE)
        spare -= tl.sum((keys > threshold).to(tl.int32), 0)
    before = row * k
    for start in range(0, d_sae, BLOCK):
        latent = start + tl.arange(0, BLOCK)
        keys = _keys(scores, bias, row, latent, d_sae, ABSOLUTE)
        kept = _kept(keys, threshold, spare)
        target = before + tl.cumsum(kept, 0) - 1
        tl.store(out_latents + target, latent.to(tl.int64), kept > 0)
        tl.store(out_values + target, scores_of(scores, bias, row, latent, d_sae), kept > 0)
        before += tl.sum(kept, 0)
        spare -= tl.sum((keys == threshold).to(tl.int32), 0)


@triton.jit
@no_type_check
def _keep_kernel(
    counts, latents, values, scores, bias, out_latents, out_values, d_sae, k,
    ABSOLUTE: tl.constexpr, STEPS: tl.constexpr, CAPACITY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    count = tl.load(counts + row)
    if count <= CAPACITY:
        _keep_listed(row, count, latents, values, out_latents, out_values, k, ABSOLUTE, STEPS, CAPACITY)
    else:
        _keep_of_all(row, scores, bias, out_latents, out_values, d_sae, k, ABSOLUTE, STEPS, BLOCK)


def keep_into(
    out_latents: Int[Tensor, "row k"],
    out_values: Float[Tensor, "row k"],
    candidates: Candidates,
    scores: Float[Tensor, "row d_sae"],
    bias: Float[Tensor, " d_sae"],
    absolute: bool,
) -> None:
    """Latents and z of the k largest z, or |z|, of each row, by rising latent.

    Args:
        scores: z without bias; looked at where the candidates did not fit.
    """
    batch, d_sae = scores.shape
    assert out_latents.dtype == torch.int64, "as codes have them"
    launch(
        _keep_kernel, (batch,), *candidates, scores, bias, out_latents, out_values, d_sae, out_latents.shape[1],
        ABSOLUTE=absolute, STEPS=ALL_BITS, CAPACITY=candidates.latents.shape[1],
        BLOCK=min(power_of_two(d_sae), BLOCK), warps=4,
    )  # fmt: skip
