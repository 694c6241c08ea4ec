"""From a configuration to an SAE: of given tensors, or a fresh one."""

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

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
from sae_core.models.elementwise import GatedSAE, JumpReLUSAE, ReluSAE
from sae_core.models.sae import SAE
from sae_core.models.topk import TopKSAE


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
) -> SAE:
    """A fresh SAE: encoder and decoder tied random unit vectors, biases of width d_model the mean of the rows, others 0.

    Args:
        rows: first rows of the training data in original units.
        seed: seed of the directions.
        normalise: `rms` sets `scale` so that rows/scale have mean square norm d_model; `none` sets it to 1. Of no account where
            each row is normalised by itself.
        threshold: of JumpReLU, in units of rows/scale.

    Raises:
        ValueError: the rows are all 0, or not finite.
    """
    size = rows.double().square().mean().sqrt()
    if not (torch.isfinite(size) and size > 0):
        raise ValueError(
            f"Rows that start an SAE must be finite and not all 0; their root mean square is {float(size)}. Check the store."
        )
    by_number = config.normalise == "scale" and normalise == "rms"
    draw = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(config.d_sae, config.d_model, generator=draw), dim=1)
    kind = model_of(config)
    tensors = {name: torch.zeros(shape) for name, shape in kind.shapes(config).items()}
    tensors |= {"W_enc": directions, "W_dec": directions, "scale": size.float() if by_number else torch.ones(())}
    if "threshold" in tensors:
        tensors["threshold"].fill_(threshold if isinstance(config, JumpReLUConfig) else UNSET)
    sae = kind(config, tensors)
    with torch.no_grad():
        mean = sae.normalised(rows.float()).rows.double().mean(0).float()
        for name in ("b_pre", "b_dec"):
            if name in tensors:
                getattr(sae, name).copy_(mean)
    return sae
