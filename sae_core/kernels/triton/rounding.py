"""Bfloat16 copies of vectors, and how far a product of copies can be from the product of the vectors themselves.

‖x − x̃‖ and ‖w − w̃‖ are measured, not assumed: |x·w − x̃·w̃| ≤ ‖x − x̃‖ ‖w‖ + ‖x̃‖ ‖w − w̃‖ holds for any rounding.
"""

from typing import NamedTuple, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import BFloat16, Float
from torch import Tensor

from sae_core.kernels.triton.launch import launch, power_of_two

FLOOR = 1.2e-38
"""At least the square of any number whose square float32 takes for 0."""


class Rounded(NamedTuple):
    """Vectors in bfloat16, to nearest."""

    copies: BFloat16[Tensor, "vector d_model"]
    norms: Float[Tensor, " vector"]
    """Norm of each vector."""
    slips: Float[Tensor, " vector"]
    """Norm of what rounding took from it."""


@triton.jit
@no_type_check
def to_bfloat16(x):
    """The float32 nearest to x that is a bfloat16, of two the even one; the same bits on a GPU and under the interpreter."""
    bits = x.to(tl.int32, bitcast=True)
    nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) & -65536
    return tl.where(x == x, nearest, 0x7FC00000).to(tl.float32, bitcast=True)


@triton.jit
@no_type_check
def _round_kernel(vectors, copies, norms, slips, d_model, floor, COLUMNS: tl.constexpr):
    vector = tl.program_id(0).to(tl.int64)
    squares = tl.zeros([COLUMNS], tl.float32)
    lost = tl.zeros([COLUMNS], tl.float32)
    for start in range(0, d_model, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        x = tl.load(vectors + vector * d_model + column, column < d_model, other=0.0)
        copy = to_bfloat16(x)
        tl.store(copies + vector * d_model + column, copy.to(tl.bfloat16), column < d_model)
        squares += x * x
        lost += (x - copy) * (x - copy)
    tl.store(norms + vector, tl.sqrt(tl.sum(squares, 0) + floor))
    tl.store(slips + vector, tl.sqrt(tl.sum(lost, 0) + floor))


def like(vectors: Float[Tensor, "vector d_model"]) -> Rounded:
    """Memory for the rounded form of vectors."""
    count, device = len(vectors), vectors.device
    return Rounded(
        torch.empty_like(vectors, dtype=torch.bfloat16), torch.empty(count, device=device), torch.empty(count, device=device)
    )


def round_into(rounded: Rounded, vectors: Float[Tensor, "vector d_model"]) -> None:
    """Round vectors."""
    count, d_model = vectors.shape
    columns = min(power_of_two(d_model), 2048)
    launch(_round_kernel, (count,), vectors, *rounded, d_model, FLOOR * d_model, COLUMNS=columns, warps=4)
