"""Decode, error and products with the error in one reading of the selected decoder vectors.

The error of some columns needs the selected vectors in these columns alone, and so do the columns' shares of the products. Where
all vectors of a row fit, each is therefore read once; longer rows read them a second time.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from sae_core.kernels.backend import Reconstruction
from sae_core.kernels.codes import ByLatent, Codes
from sae_core.kernels.triton.launch import launch, power_of_two

TILE = 8192
"""Numbers of the decoder held at a time by the 128 threads of a program: 64 registers each."""


@triton.jit
@no_type_check
def _vectors(weights, latent, listed, column, d_model):
    """weights[latent, column], 0 outside."""
    inside = listed[:, None] & (column < d_model)[None, :]
    return tl.load(weights + latent[:, None] * d_model + column[None, :], inside, other=0.0)


@triton.jit
@no_type_check
def _error(decoded, bias, target, row, column, d_model):
    offset = tl.load(bias + column, column < d_model, other=0.0)
    return decoded + offset - tl.load(target + row * d_model + column, column < d_model, other=0.0)


@triton.jit
@no_type_check
def _in_one_reading(row, first, count, latents, values, weights, bias, target, error, dots, d_model, ENTRIES, COLUMNS):
    place = tl.arange(0, ENTRIES)
    listed = place < count
    latent = tl.load(latents + first + place, listed, other=0)
    value = tl.load(values + first + place, listed, other=0.0)
    products = tl.zeros([ENTRIES], tl.float32)
    for start in range(0, d_model, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        tile = _vectors(weights, latent, listed, column, d_model)
        found = _error(tl.sum(tile * value[:, None], 0), bias, target, row, column, d_model)
        tl.store(error + row * d_model + column, found, column < d_model)
        products += tl.sum(tile * found[None, :], 1)
    tl.store(dots + first + place, products, listed)


@triton.jit
@no_type_check
def _in_two_readings(row, first, count, latents, values, weights, bias, target, error, dots, d_model, ENTRIES, COLUMNS):
    for start in range(0, d_model, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        decoded = tl.zeros([COLUMNS], tl.float32)
        for begin in range(0, count, ENTRIES):
            place = begin + tl.arange(0, ENTRIES)
            latent = tl.load(latents + first + place, place < count, other=0)
            value = tl.load(values + first + place, place < count, other=0.0)
            decoded += tl.sum(_vectors(weights, latent, place < count, column, d_model) * value[:, None], 0)
        found = _error(decoded, bias, target, row, column, d_model)
        tl.store(error + row * d_model + column, found, column < d_model)
    # what other threads of the program stored is read below
    tl.debug_barrier()
    for begin in range(0, count, ENTRIES):
        place = begin + tl.arange(0, ENTRIES)
        latent = tl.load(latents + first + place, place < count, other=0)
        products = tl.zeros([ENTRIES], tl.float32)
        for start in range(0, d_model, COLUMNS):
            column = start + tl.arange(0, COLUMNS)
            found = tl.load(error + row * d_model + column, column < d_model, other=0.0)
            products += tl.sum(_vectors(weights, latent, place < count, column, d_model) * found[None, :], 1)
        tl.store(dots + first + place, products, place < count)


@triton.jit
@no_type_check
def _reconstruct_kernel(
    offsets, latents, values, weights, bias, target, error, dots, d_model, ENTRIES: tl.constexpr, COLUMNS: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    first = tl.load(offsets + row)
    count = (tl.load(offsets + row + 1) - first).to(tl.int32)
    if count <= ENTRIES:
        _in_one_reading(row, first, count, latents, values, weights, bias, target, error, dots, d_model, ENTRIES, COLUMNS)
    else:
        _in_two_readings(row, first, count, latents, values, weights, bias, target, error, dots, d_model, ENTRIES, COLUMNS)


def held(entries: int, batch: int) -> int:
    """Entries of a row that fit: twice the mean, for rows of uneven length; lanes without an entry read nothing."""
    return min(max(power_of_two(2 * entries // max(batch, 1)), 16), 512)


def reconstruct(
    codes: Codes,
    entries: ByLatent,
    W_dec: Float[Tensor, "d_sae d_model"],
    b_dec: Float[Tensor, " d_model"],
    target: Float[Tensor, "row d_model"],
) -> Reconstruction:
    """Decode, subtract the target, and multiply the error with the decoder rows of the entries."""
    batch, d_model = target.shape
    error, dots = torch.empty_like(target), torch.empty_like(codes.values)
    fit = held(len(codes.values), batch)
    columns = max(TILE // fit, 32)
    launch(
        _reconstruct_kernel, (batch,), codes.offsets, codes.latents, codes.values, W_dec, b_dec, target, error, dots, d_model,
        ENTRIES=fit, COLUMNS=columns, warps=4 * fit * columns // TILE,
    )  # fmt: skip
    return Reconstruction(error, dots[entries.order])
