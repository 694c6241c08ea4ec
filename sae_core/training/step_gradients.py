"""Gradients of many tensors: their sum over processes, and their common norm."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from sae_core.training.ranks import Ranks

MESSAGE = 2**24
"""Numbers sent at a time: 64 MiB, which is also what is copied to send them."""


def reduced(gradients: Sequence[Tensor], ranks: Ranks) -> None:
    """Put the sum over processes in the place of every gradient."""
    if ranks.size == 1:
        return
    bucket: list[Tensor] = []
    for gradient in gradients:
        if bucket and sum(tensor.numel() for tensor in bucket) + gradient.numel() > MESSAGE:
            _send(bucket, ranks)
            bucket = []
        bucket.append(gradient)
    _send(bucket, ranks)


def _send(bucket: list[Tensor], ranks: Ranks) -> None:
    for tensor, total in zip(bucket, ranks.sums(bucket), strict=True):
        tensor.copy_(total)


def clipped_norm(gradients: Sequence[Tensor], limit: float) -> float:
    """Norm of all gradients together, which are then scaled down to `limit` if it is above; 0 is no limit."""
    norm = torch.nn.utils.get_total_norm(gradients)
    whole = norm.full_tensor() if isinstance(norm, DTensor) else norm
    if limit > 0:
        # the formula of torch's clip_grad_norm_, without reading the norm before the scaling
        scale = (limit / (whole + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            (gradient.to_local() if isinstance(gradient, DTensor) else gradient).mul_(scale)
    return float(whole)
