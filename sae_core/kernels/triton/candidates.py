"""Which latents of a row can be among its k largest, given scores and how far they can be from the truth.

Latents are dealt into groups and the k-th largest of the groups' best is taken: k latents at least are as large, so whatever is
surely smaller is out. Few others pass, since the k largest rarely share a group.

Source: the bound of two-level selection, arXiv 2506.04165 §3; here it only leaves out what cannot be chosen.
"""

from typing import NamedTuple, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from sae_core.kernels.triton.launch import launch, power_of_two
from sae_core.kernels.triton.ordering import ABSENT, ALL_BITS, key_of, kth_largest, ranked
from sae_core.kernels.triton.rounding import FLOOR, Rounded

GROUPS = 2048
"""Groups at least, of which 8 warps hold 8 in a thread; rows of fewer latents are searched one by one."""
MOST = 8192
"""Candidates per row, and groups, at most."""
COARSE_BITS = 20
"""Enough for a threshold of scores that are known to three digits."""
UNIT = 2.0**-23
"""Relative rounding error of one addition in a tensor core, doubled because it cuts off instead of rounding."""


class Candidates(NamedTuple):
    """Candidates of each row by rising latent. A row with more than fit has a larger count, and what stands there is of no use."""

    counts: Int[Tensor, " row"]
    latents: Int[Tensor, "row capacity"]
    values: Float[Tensor, "row capacity"]
    """Their z."""


@triton.jit
@no_type_check
def scores_of(scores, bias, row, latent, d_sae):
    """z of some latents, 0 beyond the last."""
    z = tl.load(scores + row * d_sae + latent, latent < d_sae, other=0.0)
    return z + tl.load(bias + latent, latent < d_sae, other=0.0)


@triton.jit
@no_type_check
def _slack(z, near, far, norms, slips, latent, d_sae, floor):
    """At least |z − its true value|; 1.01 and 2⁻²² |z| pay for the roundings of the bound and of adding the bias."""
    norm = tl.load(norms + latent, latent < d_sae, other=0.0)
    slip = tl.load(slips + latent, latent < d_sae, other=0.0)
    return 1.01 * (near * norm + far * slip) + tl.abs(z) * 2.384185791015625e-07 + floor


@triton.jit
@no_type_check
def _candidates_kernel(
    scores, bias, row_norms, row_slips, norms, slips, counts, latents, values, d_sae, k, sums_error, floor,
    ABSOLUTE: tl.constexpr, STEPS: tl.constexpr, GROUPS: tl.constexpr, CAPACITY: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    if row_norms is not None:
        slip = tl.load(row_slips + row)
        far = tl.load(row_norms + row) + slip
        near = slip + sums_error * far
    best = tl.full([GROUPS], ABSENT, tl.int32)
    for start in range(0, d_sae, GROUPS):
        latent = start + tl.arange(0, GROUPS)
        z = scores_of(scores, bias, row, latent, d_sae)
        rank = ranked(z, ABSOLUTE)
        if row_norms is not None:
            least = rank - _slack(z, near, far, norms, slips, latent, d_sae, floor)
            # nothing is known of a score that is NaN, or whose slack is
            rank = tl.where(least == least, least, float("-inf"))
        best = tl.maximum(best, tl.where(latent < d_sae, key_of(rank), ABSENT))
    threshold = kth_largest(best, k, STEPS)
    count = 0
    for start in range(0, d_sae, GROUPS):
        latent = start + tl.arange(0, GROUPS)
        z = scores_of(scores, bias, row, latent, d_sae)
        rank = ranked(z, ABSOLUTE)
        if row_norms is not None:
            rank = rank + _slack(z, near, far, norms, slips, latent, d_sae, floor)
        kept = ((key_of(rank) >= threshold) & (latent < d_sae)).to(tl.int32)
        place = count + tl.cumsum(kept, 0) - 1
        fits = (kept > 0) & (place < CAPACITY)
        tl.store(latents + row * CAPACITY + place, latent, fits)
        tl.store(values + row * CAPACITY + place, z, fits)
        count += tl.sum(kept, 0)
    tl.store(counts + row, count)


def capacity(k: int, d_sae: int) -> int:
    """Candidates per row that fit: room for as many doubtful ones as sure ones."""
    return min(power_of_two(max(2 * k, k + 96)), power_of_two(d_sae), MOST)


def candidates(
    scores: Float[Tensor, "row d_sae"],
    bias: Float[Tensor, " d_sae"],
    factors: tuple[Rounded, Rounded] | None,
    k: int,
    absolute: bool,
) -> Candidates:
    """Candidates for the k largest of scores + bias.

    Args:
        factors: rows and latents in bfloat16, of which the scores are the products; None if the scores are the truth.
    """
    batch, d_sae = scores.shape
    held = capacity(k, d_sae)
    found = Candidates(
        torch.empty(batch, dtype=torch.int32, device=scores.device),
        torch.empty(batch, held, dtype=torch.int32, device=scores.device),
        torch.empty(batch, held, device=scores.device),
    )
    bounds = (None, None, None, None) if factors is None else (*factors[0][1:], *factors[1][1:])
    d_model = 0 if factors is None else factors[0].copies.shape[1]
    groups = min(power_of_two(max(8 * k, GROUPS)), power_of_two(d_sae), MOST)
    launch(
        _candidates_kernel, (batch,), scores, bias, *bounds, *found, d_sae, k, d_model * UNIT, 4 * FLOOR * d_model,
        ABSOLUTE=absolute, STEPS=ALL_BITS if factors is None else COARSE_BITS, GROUPS=groups, CAPACITY=held, warps=8,
    )  # fmt: skip
    return found
