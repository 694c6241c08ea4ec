"""From a configuration to an SAE: of given tensors, or a fresh one."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.config.crosscoder import CrosscoderConfig
from sae_core.config.part import Part
from sae_core.config.sae import (
    BatchTopKConfig,
    GatedConfig,
    JumpReLUConfig,
    MatryoshkaConfig,
    ReluConfig,
    SAEConfig,
    TopKConfig,
)
from sae_core.models.batchtopk import UNSET, BatchTopKSAE, MatryoshkaSAE
from sae_core.models.crosscoder import Crosscoder
from sae_core.models.elementwise import GatedSAE, JumpReLUSAE, ReluSAE
from sae_core.models.sae import SAE
from sae_core.models.topk import TopKSAE

DRAWN = 4096
"""Latents drawn at a time."""


def model_of(config: SAEConfig) -> type[SAE]:
    """The class that computes what a configuration says."""
    match config:
        case TopKConfig():
            return TopKSAE
        case BatchTopKConfig():
            return BatchTopKSAE
        case MatryoshkaConfig():
            return MatryoshkaSAE
        case ReluConfig():
            return ReluSAE
        case JumpReLUConfig():
            return JumpReLUSAE
        case GatedConfig():
            return GatedSAE
        case CrosscoderConfig():
            return Crosscoder
        case _:
            raise TypeError(f"a configuration must be one of a kind; got {type(config).__name__}")


def build(config: SAEConfig, tensors: Mapping[str, Tensor]) -> SAE:
    """The SAE of a configuration with copies of the given tensors.

    Raises:
        ValueError: a tensor is missing or its shape is not that of `config`.
    """
    return model_of(config)(config, tensors)


def initial(
    config: SAEConfig,
    rows: Float[Tensor, "row d_model"],
    seed: int,
    normalise: Literal["rms", "none"] = "rms",
    threshold: float = 0.1,
    part: Part | None = None,
) -> SAE:
    """A fresh SAE: encoder and decoder tied random unit vectors, biases of width d_model the mean of the rows, others 0.

    Args:
        rows: first rows of the training data in original units.
        seed: seed of the directions.
        normalise: `rms` sets `scale` so that rows/scale have mean square norm d_model; `none` sets it to 1. Of no account where
            each row is normalised by itself.
        threshold: of JumpReLU, in units of rows/scale.
        part: make this part of that SAE alone; the memory needed is that of the part.

    Raises:
        ValueError: the rows are all 0, or not finite.
    """
    size = rows.double().square().mean().sqrt()
    if not (torch.isfinite(size) and size > 0):
        raise ValueError(
            f"Rows that start an SAE must be finite and not all 0; their root mean square is {float(size)}. Check the store."
        )
    by_number = config.normalise == "scale" and normalise == "rms"
    part = part or Part(config, 0, config.d_sae)
    directions = torch.nn.functional.normalize(_drawn(part, seed), dim=1)
    kind = model_of(config)
    tensors = {name: torch.zeros(shape) for name, shape in kind.shapes(part.config).items()}
    tensors |= {"W_enc": directions, "W_dec": directions, "scale": size.float() if by_number else torch.ones(())}
    if "threshold" in tensors:
        tensors["threshold"].fill_(threshold if isinstance(config, JumpReLUConfig) else UNSET)
    sae = kind(part.config, tensors, part)
    with torch.no_grad():
        mean = sae.normalised(rows.float()).rows.double().mean(0).float()
        for name in ("b_pre", "b_dec"):
            if name in tensors:
                getattr(sae, name).copy_(mean)
    return sae


def _drawn(part: Part, seed: int) -> Float[Tensor, "latent d_model"]:
    """Normal numbers, for each latent those of a draw for all latents at once.

    Torch draws 16 numbers at a time, and anew where the last are fewer: blocks of a multiple of 16, the last as long as it takes,
    change nothing.
    """
    draw, latents, width = torch.Generator().manual_seed(seed), part.whole.d_sae, part.whole.d_model
    kept = torch.empty(part.last - part.first, width)
    borders = [*range(0, max(latents - DRAWN, 0) + 1, DRAWN), latents]
    for first, last in pairwise(borders):
        block = torch.randn(last - first, width, generator=draw)
        low, high = max(first, part.first), min(last, part.last)
        if low < high:
            kept[low - part.first : high - part.first] = block[low - first : high - first]
    return kept
