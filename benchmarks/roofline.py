"""The least time that this machine needs for an exact TopK update, from rates measured in the same run.

With B rows, d = d_model, F = d_sae, P = 2Fd weights:

    encoder        2BdF operations at the rate of a matrix product of that size; where products of int8 (on a CPU) or bfloat16
                   (on a GPU) are faster, they find k + 16 candidates per row, which are computed again in float32:
                   4 B(k + 16)d bytes
    decoder        x̂, its error and the products of the error with decoder rows in one reading of the kept rows: 4 Bkd bytes
    gradients and  both weight gradients read 8 Bkd bytes, Adam reads and writes weights and two moments, 24 bytes for each of P
    Adam           weights, and 1 for each in a copy of W_enc; the larger of the two, because one can be done while the other waits

Bytes at the rate of a copy that is larger than any cache, reads and writes counted. Not in it: selection, transposition, biases,
the clip. A cache that holds part of the weights can therefore bring an update below it.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.shapes import Shape
from benchmarks.timing import Update
from sae_core.kernels.native.candidates import int8_product

MARGIN = 16
"""Candidates per row beyond k."""
COPIED_BYTES = 1 << 28
REPEATS = 7


class Rates(NamedTuple):
    """What the machine reaches."""

    fp32: float
    """Operations per second of the encoder's product in float32."""
    bf16: float
    """The same in bfloat16."""
    candidates: float
    """The same in int8 on a CPU, in bfloat16 on a GPU."""
    copy: float
    """Bytes per second, read and written."""


def measured_rates(shape: Shape, device: torch.device, clock: Callable[[Update, Tensor], float]) -> Rates:
    """The best of a few repetitions each."""
    rows = torch.randn(shape.batch, shape.d_model, device=device)
    weights = torch.randn(shape.d_sae, shape.d_model, device=device)
    operations = 2.0 * shape.batch * shape.d_model * shape.d_sae
    low_rows, low_weights = rows.bfloat16(), weights.bfloat16()
    whole_rows, whole_weights = rows.to(torch.int8), weights.to(torch.int8)
    source = torch.zeros(COPIED_BYTES // 4, device=device)
    target = torch.zeros_like(source)

    def best(update: Update) -> float:
        return min(clock(update, rows) for _ in range(REPEATS))

    fp32, bf16 = operations / best(lambda _: rows @ weights.T), operations / best(lambda _: low_rows @ low_weights.T)
    int8 = operations / best(lambda _: int8_product(whole_rows, whole_weights)) if device.type == "cpu" else bf16
    return Rates(fp32, bf16, int8, 2 * COPIED_BYTES / best(lambda _: target.copy_(source)))


def floor_ms(shape: Shape, rates: Rates, precision: str) -> float:
    """Milliseconds of the roofline for an update whose products have this precision."""
    product, kept = 2.0 * shape.batch * shape.d_model * shape.d_sae, 4.0 * shape.batch * shape.k * shape.d_model
    again = kept * (shape.k + MARGIN) / shape.k / rates.copy
    encoder = product / rates.bf16 if precision == "bf16" else min(product / rates.fp32, product / rates.candidates + again)
    adam = (24.0 * 2 + 1) * shape.d_sae * shape.d_model
    return 1e3 * (encoder + (kept + max(2 * kept, adam)) / rates.copy)
