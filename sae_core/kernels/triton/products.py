"""Dense products on tensor cores: of bfloat16 factors, and of float32 factors cut into three bfloat16 parts each.

Three parts hold all 24 bits of a float32; six of their nine products reach past its last bit. One product of bfloat16 matrices with
the parts side by side adds them up in float32, without any setting of how a library may round float32 factors.

Source: Henry, Tang and Heinecke 2019, "Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision Computations".
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import BFloat16, Float
from torch import Tensor

from sae_core.kernels.gradient import RowGradient
from sae_core.kernels.triton.launch import launch, power_of_two, share_of
from sae_core.kernels.triton.rounding import to_bfloat16
from sae_core.kernels.triton.row_gradient import shape_of

TERMS = 6
"""Products of parts: of the left factor 1 1 1 2 2 3, of the right one 1 2 3 1 2 1."""
ENTRIES = 1024
"""Entries that a program of 4 warps spreads."""
MEMORY = 1 << 28
"""Bytes that the parts of a factor may take; a larger one is cut into blocks of latents."""


def bfloat16_product(a: BFloat16[Tensor, "m n"], b: BFloat16[Tensor, "n p"]) -> Float[Tensor, "m p"]:
    """a · b with sums in float32."""
    if a.is_cpu:
        return a.float() @ b.float()
    return torch.mm(a, b, out_dtype=torch.float32)


@triton.jit
@no_type_check
def _store_parts(where, x, stride, inside, LEFT):
    """Store the part of x that belongs to each term."""
    one = to_bfloat16(x)
    two = to_bfloat16(x - one)
    three = x - one - two
    tl.store(where, one.to(tl.bfloat16), inside)
    tl.store(where + stride, (one if LEFT else two).to(tl.bfloat16), inside)
    tl.store(where + 2 * stride, (one if LEFT else three).to(tl.bfloat16), inside)
    tl.store(where + 3 * stride, (two if LEFT else one).to(tl.bfloat16), inside)
    tl.store(where + 4 * stride, two.to(tl.bfloat16), inside)
    tl.store(where + 5 * stride, (three if LEFT else one).to(tl.bfloat16), inside)


@triton.jit
@no_type_check
def _split_kernel(matrix, parts, columns, row_stride, term_stride, LEFT: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    for start in range(0, columns, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        x = tl.load(matrix + row * columns + column, column < columns, other=0.0)
        _store_parts(parts + row * row_stride + column, x, term_stride, column < columns, LEFT)


@triton.jit
@no_type_check
def _spread_kernel(coefficients, rows, latents, parts, entries, first, width, term_stride, ENTRIES: tl.constexpr):
    place = tl.program_id(0) * ENTRIES + tl.arange(0, ENTRIES)
    coefficient = tl.load(coefficients + place, place < entries, other=0.0)
    row = tl.load(rows + place, place < entries, other=0)
    latent = tl.load(latents + place, place < entries, other=0) - first
    inside = (place < entries) & (latent >= 0) & (latent < width)
    _store_parts(parts + row * width + latent, coefficient, term_stride, inside, True)


def _split(matrix: Float[Tensor, "m n"], left: bool, terms_first: bool) -> BFloat16[Tensor, "a b c"]:
    """Parts of a matrix, [6, m, n] or [m, 6, n]."""
    m, n = matrix.shape
    parts = torch.empty((TERMS, m, n) if terms_first else (m, TERMS, n), dtype=torch.bfloat16, device=matrix.device)
    strides = (n, m * n) if terms_first else (TERMS * n, n)
    launch(_split_kernel, (m,), matrix, parts, n, *strides, LEFT=left, COLUMNS=min(power_of_two(n), 1024), warps=4)
    return parts


def float32_product(a: Float[Tensor, "m n"], b: Float[Tensor, "p n"]) -> Float[Tensor, "m p"]:
    """a · bᵀ as float32 gives it."""
    left = _split(a, left=True, terms_first=False).flatten(1)
    blocks = b.split(max(MEMORY // (2 * TERMS * b.shape[1]), 1))
    found = [bfloat16_product(left, _split(block, left=False, terms_first=False).flatten(1).T) for block in blocks]
    return found[0] if len(found) == 1 else torch.cat(found, 1)


def dense_gradient(gradient: RowGradient) -> Float[Tensor, "d_sae d_model"]:
    """The gradient as a matrix, by products of dense codes with the rows."""
    entries, batch = gradient.entries, len(gradient.rows)
    d_sae, d_model = shape_of(gradient)
    right = _split(gradient.rows, left=False, terms_first=True).view(-1, d_model)
    block = min(max(MEMORY // (2 * TERMS * batch), 1), d_sae)
    found = []
    for first in range(0, d_sae, block):
        width = min(block, d_sae - first)
        codes = torch.zeros(TERMS, batch, width, dtype=torch.bfloat16, device=right.device)
        count = len(gradient.coefficients)
        launch(
            _spread_kernel, (share_of(count, ENTRIES),), gradient.coefficients, entries.rows, entries.latents, codes,
            count, first, width, batch * width, ENTRIES=ENTRIES, warps=4,
        )  # fmt: skip
        found.append(bfloat16_product(codes.view(-1, width).T, right))
    written = found[0] if len(found) == 1 else torch.cat(found)
    if gradient.extra is not None:
        written.index_add_(0, gradient.extra.latents, gradient.extra.rows)
    return written
