"""Pieces of the losses of TopK SAEs, dense and differentiable, from which each contender's true loss is put together."""

import torch
from torch import Tensor

from benchmarks.shapes import Tensors


def topk_relu(z: Tensor, k: int, active: Tensor | None) -> Tensor:
    """The k largest z of each row where they are above 0, 0 elsewhere.

    Args:
        active: where codes are above 0, if that is known already.
    """
    if active is None:
        active = torch.zeros_like(z, dtype=torch.bool).scatter(1, z.topk(k).indices, True) & (z > 0)
    return z * active


def pre_activations(p: Tensors, rows: Tensor, pre: str) -> Tensor:
    """(x − pre) W_encᵀ + b_enc, `pre` being the name of a bias."""
    return (rows - p[pre]) @ p["W_enc"].T + p["b_enc"]


def decoded(p: Tensors, codes: Tensor) -> Tensor:
    """f W_dec + b_dec."""
    return codes @ p["W_dec"] + p["b_dec"]


def dead_decoded(p: Tensors, codes: Tensor, dead: Tensor) -> Tensor:
    """Codes of dead latents times their decoder rows, without a bias."""
    return codes @ p["W_dec"][dead]


def summed(error: Tensor) -> Tensor:
    """Squared error summed over d_model, mean over rows."""
    return error.square().sum(1).mean()
