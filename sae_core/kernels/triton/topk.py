"""The k latents of each row with the largest pre-activations, exactly: chosen by bfloat16 products, decided by float32."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.kernels.backend import Precision
from sae_core.kernels.codes import Codes, equally_many
from sae_core.kernels.gradient import Matrix
from sae_core.kernels.triton.candidates import candidates
from sae_core.kernels.triton.keeping import keep_into
from sae_core.kernels.triton.products import bfloat16_product, float32_product
from sae_core.kernels.triton.rescoring import rescore_
from sae_core.kernels.triton.rounding import Rounded, like, round_into

MEMORY = 1 << 28
"""Bytes that scores of all latents may take; a larger batch is cut into blocks of rows."""


@dataclass
class SelectingMatrix(Matrix):
    """An encoder with its bfloat16 form, of which `shadow` is a part."""

    rounded: Rounded | None = None


def topk(
    centred: Float[Tensor, "row d_model"],
    encoder: SelectingMatrix,
    b_enc: Float[Tensor, " d_sae"],
    k: int,
    absolute: bool,
    precision: Precision,
    dense: bool,
) -> Codes:
    """The k largest z = centred · Wᵀ + b of each row, or |z|.

    Args:
        dense: in float32, take z of all latents from a float32 product and re-score none.
    """
    (batch, _), d_sae = centred.shape, len(encoder.weights)
    latents = torch.empty(batch, k, dtype=torch.int64, device=centred.device)
    values = torch.empty(batch, k, device=centred.device)
    block = max(MEMORY // (4 * d_sae), 1)
    for first in range(0, batch, block):
        rows = centred[first : first + block]
        out = latents[first : first + block], values[first : first + block]
        if precision == "fp32" and dense:
            scores = float32_product(rows, encoder.weights)
            keep_into(*out, candidates(scores, b_enc, None, k, absolute), scores, b_enc, absolute)
            continue
        assert encoder.rounded is not None, "made to select"
        rounded = like(rows)
        round_into(rounded, rows)
        scores = bfloat16_product(rounded.copies, encoder.rounded.copies.T)
        found = candidates(scores, b_enc, (rounded, encoder.rounded) if precision == "fp32" else None, k, absolute)
        if precision == "fp32":
            rescore_(found, scores, rows, encoder.weights, b_enc)
        keep_into(*out, found, scores, b_enc, absolute)
    return equally_many(latents, values)
