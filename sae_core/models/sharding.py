"""SAEs cut into parts by latents, and joined again."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sae_core.config.part import Part, part_of
from sae_core.config.sae import SAEConfig
from sae_core.models.build import model_of
from sae_core.models.sae import SAE


def per_latent(config: SAEConfig) -> tuple[str, ...]:
    """Names of the tensors that have a row or a number for each latent; parts share the others."""
    own = model_of(config).own_shapes(config)
    return ("W_enc", "W_dec", *(name for name, shape in own.items() if shape == (config.d_sae,)))


def shard(tensors: Mapping[str, Tensor], config: SAEConfig, index: int, count: int) -> dict[str, Tensor]:
    """The tensors of part `index` of `count` parts, as views.

    Raises:
        ValueError: there are more parts than latents.
    """
    part, cut = part_of(config, index, count), per_latent(config)
    return {name: tensor[part.first : part.last] if name in cut else tensor for name, tensor in tensors.items()}


def unsharded(parts: Sequence[Mapping[str, Tensor]], config: SAEConfig) -> dict[str, Tensor]:
    """The tensors of the SAE `config` from those of all its parts in their order.

    Raises:
        ValueError: the parts do not add up to d_sae latents.
    """
    latents = sum(len(part["W_enc"]) for part in parts)
    if latents != config.d_sae:
        raise ValueError(
            f"The parts of an SAE must have d_sae = {config.d_sae} latents together; got {latents} in {len(parts)} parts. "
            "Give each part once."
        )
    cut = per_latent(config)
    return {name: torch.cat([part[name] for part in parts]) if name in cut else parts[0][name].clone() for name in parts[0]}


def build_part(part: Part, tensors: Mapping[str, Tensor]) -> SAE:
    """The part of an SAE with copies of its own tensors; only together with the others does it compute what the SAE computes.

    Raises:
        ValueError: a tensor is missing or its shape is not that of the part.
    """
    return model_of(part.whole)(part.config, tensors, part)
