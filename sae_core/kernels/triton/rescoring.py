"""z of candidates as float32 gives it; of rows with too many candidates, that of all latents."""

from typing import no_type_check

import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from sae_core.kernels.triton.candidates import Candidates
from sae_core.kernels.triton.launch import launch, power_of_two, share_of

TOGETHER = 32
"""Candidates of a program."""


@triton.jit
@no_type_check
def _products(x, weights, latent, listed, d_model, TOGETHER, COLUMNS):
    found = tl.zeros([TOGETHER], tl.float32)
    for start in range(0, d_model, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        inside = listed[:, None] & (column < d_model)[None, :]
        tile = tl.load(weights + latent[:, None] * d_model + column[None, :], inside, other=0.0)
        found += tl.sum(tile * tl.load(x + column, column < d_model, other=0.0)[None, :], 1)
    return found


@triton.jit
@no_type_check
def _rescore_kernel(
    rows, weights, bias, counts, latents, values, scores, d_model, d_sae,
    CAPACITY: tl.constexpr, TOGETHER: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * TOGETHER
    count = tl.load(counts + row)
    x = rows + row * d_model
    if count > CAPACITY:
        for start in range(first, d_sae, TOGETHER * tl.num_programs(1)):
            latent = (start + tl.arange(0, TOGETHER)).to(tl.int64)
            found = _products(x, weights, latent, latent < d_sae, d_model, TOGETHER, COLUMNS)
            tl.store(scores + row * d_sae + latent, found, latent < d_sae)
    elif first < count:
        place = first + tl.arange(0, TOGETHER)
        latent = tl.load(latents + row * CAPACITY + place, place < count, other=0).to(tl.int64)
        found = _products(x, weights, latent, place < count, d_model, TOGETHER, COLUMNS)
        found += tl.load(bias + latent, place < count, other=0.0)
        tl.store(values + row * CAPACITY + place, found, place < count)


def rescore_(
    candidates: Candidates,
    scores: Float[Tensor, "row d_sae"],
    rows: Float[Tensor, "row d_model"],
    weights: Float[Tensor, "d_sae d_model"],
    bias: Float[Tensor, " d_sae"],
) -> None:
    """Put ⟨row, weights⟩ + bias into the candidates' values; where they did not fit, ⟨row, weights⟩ into the row's scores."""
    batch, d_model = rows.shape
    capacity = candidates.latents.shape[1]
    columns = min(power_of_two(d_model), 128)
    together = min(TOGETHER, capacity)
    launch(
        _rescore_kernel, (batch, share_of(capacity, together)), rows, weights, bias, *candidates, scores, d_model, len(weights),
        CAPACITY=capacity, TOGETHER=together, COLUMNS=columns, warps=4,
    )  # fmt: skip
