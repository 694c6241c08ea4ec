"""Adam in one pass over a matrix: each row's gradient, shrink, projection, step, norm 1 and bfloat16 copy, 26 bytes per weight.

Source: Kingma and Ba 2015, algorithm 1; the fusion of gradient and optimiser is that of embedding tables.
"""

import math
from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from sae_core.kernels.backend import Gradient
from sae_core.kernels.gradient import AdamStep, Matrix
from sae_core.kernels.triton.launch import launch, power_of_two
from sae_core.kernels.triton.rounding import FLOOR, Rounded, to_bfloat16
from sae_core.kernels.triton.row_gradient import PIECE, TOGETHER, gradient_row, parts_of, shape_of, warps


@triton.jit
@no_type_check
def _number(given, IN_MEMORY: tl.constexpr):
    if IN_MEMORY:
        return tl.load(given).to(tl.float64)
    else:
        return tl.cast(given, tl.float64)


@triton.jit(do_not_specialize=["lr", "count", "shrink"])
@no_type_check
def _step_numbers_kernel(
    lr, count, shrink, log_beta1, log_beta2, numbers,
    LR_IN_MEMORY: tl.constexpr, COUNT_IN_MEMORY: tl.constexpr, SHRINK_IN_MEMORY: tl.constexpr,
):  # fmt: skip
    # in float64: 1 − β^t loses five digits in float32
    steps = _number(count, COUNT_IN_MEMORY)
    step_size = _number(lr, LR_IN_MEMORY) / (1 - tl.exp(steps * tl.cast(log_beta1, tl.float64)))
    root = tl.sqrt(1 - tl.exp(steps * tl.cast(log_beta2, tl.float64)))
    tl.store(numbers, step_size.to(tl.float32))
    tl.store(numbers + 1, root.to(tl.float32))
    tl.store(numbers + 2, _number(shrink, SHRINK_IN_MEMORY).to(tl.float32))


@triton.jit
@no_type_check
def _adam_kernel(
    matrix, offsets, entry_rows, coefficients, rows, pieces, extra_places, extra_rows,
    weights, exp_avg, exp_avg_sq, copies, norms, slips, numbers, d_model, rest1, beta2, rest2, eps, floor,
    PROJECT: tl.constexpr, UNIT_ROWS: tl.constexpr, PIECE: tl.constexpr, TOGETHER: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    latent = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    inside = column < d_model
    here = latent * d_model + column
    weight = tl.load(weights + here, inside, other=0.0)
    first = tl.load(exp_avg + here, inside, other=0.0)
    second = tl.load(exp_avg_sq + here, inside, other=0.0)
    gradient = gradient_row(
        latent, column, matrix, offsets, entry_rows, coefficients, rows, pieces, extra_places, extra_rows, d_model,
        PIECE, TOGETHER, COLUMNS,
    )  # fmt: skip
    gradient = gradient * tl.load(numbers + 2)
    if PROJECT:
        size = tl.maximum(tl.sum(weight * weight, 0), 1e-24)
        gradient = gradient - weight * (tl.sum(gradient * weight, 0) / size)
    first = first + (gradient - first) * rest1
    second = beta2 * second + rest2 * gradient * gradient
    weight = weight - tl.load(numbers) * first / (tl.sqrt(second) / tl.load(numbers + 1) + eps)
    if UNIT_ROWS:
        weight = weight / tl.maximum(tl.sqrt(tl.sum(weight * weight, 0)), 1e-12)
    tl.store(weights + here, weight, inside)
    tl.store(exp_avg + here, first, inside)
    tl.store(exp_avg_sq + here, second, inside)
    if copies is not None:
        copy = to_bfloat16(weight)
        tl.store(copies + here, copy.to(tl.bfloat16), inside)
        tl.store(norms + latent, tl.sqrt(tl.sum(weight * weight, 0) + floor))
        tl.store(slips + latent, tl.sqrt(tl.sum((weight - copy) * (weight - copy), 0) + floor))


def step_numbers(step: AdamStep, device: torch.device) -> Float[Tensor, "3"]:
    """lr / (1 − β1^t), the root of 1 − β2^t, and the shrink, on the device; what stands there already is read there."""
    numbers = torch.empty(3, device=device)
    given = (step.lr, step.count, step.shrink)
    lr, count, shrink = (isinstance(number, Tensor) for number in given)
    launch(
        _step_numbers_kernel, (1,), *given, math.log(step.beta1), math.log(step.beta2), numbers,
        LR_IN_MEMORY=lr, COUNT_IN_MEMORY=count, SHRINK_IN_MEMORY=shrink, warps=1,
    )  # fmt: skip
    return numbers


def adam_(matrix: Matrix, rounded: Rounded | None, gradient: Gradient, step: AdamStep) -> None:
    """One step of Adam, in place.

    Args:
        rounded: the bfloat16 form of the weights, which follows them; None if nobody selects by it.
    """
    d_sae, d_model = shape_of(gradient)
    columns = power_of_two(d_model)
    copies, norms, slips = rounded or (None, None, None)
    launch(
        _adam_kernel, (d_sae,), *parts_of(gradient), matrix.weights, matrix.exp_avg, matrix.exp_avg_sq, copies, norms, slips,
        step_numbers(step, matrix.weights.device), d_model, 1 - step.beta1, step.beta2, 1 - step.beta2, step.eps, FLOOR * d_model,
        PROJECT=step.project, UNIT_ROWS=step.unit_rows, PIECE=PIECE, TOGETHER=TOGETHER, COLUMNS=columns, warps=warps(columns),
    )  # fmt: skip
