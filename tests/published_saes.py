"""Our SAEs of every kind and convention, small and random, and rows to compare them on."""

from collections.abc import Iterator
from itertools import product

import torch
from small_saes import configs
from torch import Tensor

from sae_core.config.sae import BatchTopKConfig, MatryoshkaConfig, SAEConfig, TopKConfig
from sae_core.models.build import build, model_of
from sae_core.models.sae import SAE

D_MODEL, D_SAE, K = 6, 20, 5
KINDS = tuple(name for name, _ in configs(D_MODEL, D_SAE, K))
PRE_BIASES, NORMALISATIONS = ("own", "decoder", "none"), ("scale", "row_norm", "layer_norm")
SELECTING = (TopKConfig, BatchTopKConfig, MatryoshkaConfig)


def all_configs() -> Iterator[tuple[str, SAEConfig]]:
    """Every kind, pre-bias, normalisation and unit of selection, by name."""
    for pre_bias, normalise in product(PRE_BIASES, NORMALISATIONS):
        for kind, config in configs(D_MODEL, D_SAE, K, pre_bias=pre_bias, normalise=normalise):
            yield f"{kind}-{pre_bias}-{normalise}", config
        for kind, config in configs(D_MODEL, D_SAE, K, pre_bias=pre_bias, normalise=normalise):
            if isinstance(config, SELECTING):
                yield f"{kind}-{pre_bias}-{normalise}-by_norm", type(config)(**(vars(config) | {"decoder_norm": True}))


def filled(config: SAEConfig, seed: int = 0, scale: float = 1.7, offset: float = 0.0) -> SAE:
    """An SAE of random tensors, rows of W_dec of different norms; `offset` raises the biases of the encoder."""
    draw = torch.Generator().manual_seed(seed)
    tensors = {name: 0.5 * torch.randn(shape, generator=draw) for name, shape in model_of(config).shapes(config).items()}
    tensors["scale"] = torch.tensor(scale)
    if "threshold" in tensors:
        tensors["threshold"] = tensors["threshold"].abs() + 0.1
    if offset:
        tensors["b_enc"] += offset
    return build(config, tensors)


def rows(seed: int = 0, count: int = 9) -> Tensor:
    """Rows with a mean, of different lengths."""
    draw = torch.Generator().manual_seed(2000 + seed)
    found = 2 * torch.randn(count, D_MODEL, generator=draw) * (1 + torch.rand(count, 1, generator=draw)) + 0.7
    found[: count // 3] *= 0.01  # small rows show what is added to a standard deviation
    return found


def assert_same(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Equal to `tolerance` of the largest number of each row."""
    assert found.shape == expected.shape
    error = (found - expected).abs().amax(1)
    assert bool((error <= tolerance * expected.abs().amax(1)).all()), f"off by {float(error.max())}"
