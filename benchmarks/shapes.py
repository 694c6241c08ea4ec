"""Sizes of an SAE update, rows to run it on, and weights to start from."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

Tensors = dict[str, Tensor]
"""Tensors of an SAE by name; weights are latent-major, [d_sae, d_model]."""


class Shape(NamedTuple):
    """One update."""

    name: str
    batch: int
    d_model: int
    d_sae: int
    k: int


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("S576", 512, 576, 4608, 32),
        Shape("S1", 512, 896, 7168, 64),
        Shape("S1'", 512, 896, 7168, 256),
        Shape("S2", 4096, 896, 7168, 64),
    )
}
"""The SAEs of SmolLM2-135M and of the OhhMoo SAE-RL study, with its small and its large k, and with a larger batch."""


def batches_of(shape: Shape, count: int = 6, planted: int | None = None) -> list[Tensor]:
    """Sparse sums of unit directions that fire by a power law (exponent 0.8), amplitudes 0.5 to 1.5, offset 0.3, noise 0.05.

    Args:
        planted: number of directions; d_sae if left out.
    """
    draw = torch.Generator().manual_seed(0)
    directions = functional.normalize(torch.randn(planted or shape.d_sae, shape.d_model, generator=draw), dim=1)
    rate = 1 / torch.arange(1, len(directions) + 1).float() ** 0.8
    size, found = (shape.batch, shape.k), []
    for _ in range(count):
        latents = torch.multinomial(rate, size[0] * size[1], replacement=True, generator=draw).view(size)
        amplitudes = torch.rand(size, generator=draw) + 0.5
        rows = functional.embedding_bag(latents, directions, per_sample_weights=amplitudes, mode="sum")
        found.append(rows + 0.3 + 0.05 * torch.randn(rows.shape, generator=draw))
    return found


def start_of(shape: Shape, rows: Tensor) -> Tensors:
    """Decoder rows of norm 1 and an encoder near them; no bias is 0 and no two tensors are tied, so that no gradient hides."""
    draw, mean = torch.Generator().manual_seed(1), rows.mean(0)
    decoder = functional.normalize(torch.randn(shape.d_sae, shape.d_model, generator=draw), dim=1)
    encoder = torch.randn(decoder.shape, generator=draw).mul_(0.1 / shape.d_model**0.5).add_(decoder)
    b_enc = 0.05 * torch.randn(shape.d_sae, generator=draw)
    return {"W_enc": encoder, "W_dec": decoder, "b_enc": b_enc, "b_dec": mean, "b_pre": mean.clone()}
