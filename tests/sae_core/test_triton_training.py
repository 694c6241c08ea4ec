"""Every kind of SAE trained through the triton backend takes the steps that it takes through the torch backend."""

import pytest
import torch
from triton_cases import DEVICE, draw, near, need_triton

from sae_core.config.sae import (
    BatchTopKConfig,
    GatedConfig,
    JumpReLUConfig,
    MatryoshkaConfig,
    ReluConfig,
    SAEConfig,
    TopKConfig,
)
from sae_core.config.training import TrainingConfig
from sae_core.kernels.backend import Backend
from sae_core.kernels.torch_backend import TorchBackend
from sae_core.models.build import initial
from sae_core.models.sae import SAE
from sae_core.training.optimiser import Optimiser
from sae_core.training.update import backward, step

need_triton()

from sae_core.kernels.triton.backend import TritonBackend  # noqa: E402 - not without triton

KINDS = [
    TopKConfig(d_model=7, d_sae=24, k=3, keep="relu"),
    TopKConfig(d_model=7, d_sae=24, k=3, keep="signed"),
    TopKConfig(d_model=7, d_sae=24, k=3, keep="absolute", decoder_norm=True),
    BatchTopKConfig(d_model=7, d_sae=24, k=3),
    MatryoshkaConfig(d_model=7, d_sae=24, k=3, widths=(8, 24)),
    ReluConfig(d_model=7, d_sae=24),
    JumpReLUConfig(d_model=7, d_sae=24),
    GatedConfig(d_model=7, d_sae=24),
]


def trained(kind: SAEConfig, backend: Backend, clip: float) -> SAE:
    """The SAE after two updates."""
    config = TrainingConfig(lr=0.01, updates=2, updates_per_epoch=2, batch=10, grad_clip=clip)
    sae = initial(kind, draw(20, 7), seed=1).to(DEVICE)
    optimiser = Optimiser(sae, backend)
    selects = isinstance(kind, TopKConfig | BatchTopKConfig | MatryoshkaConfig)
    dead = torch.tensor([3, 17] if selects else [], dtype=torch.int64, device=DEVICE)
    for update in range(2):
        batch = backward(sae, draw(10, 7, seed=update), config, optimiser, dead, update)
        step(sae, optimiser, batch, config.lr, config)
    return sae


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{type(kind).__name__} {getattr(kind, 'keep', '')}".strip())
def test_both_backends_take_the_same_steps(kind: SAEConfig) -> None:
    expected = trained(kind, TorchBackend(DEVICE), 1e-3).tensors()
    for name, found in trained(kind, TritonBackend(DEVICE), 1e-3).tensors().items():
        near(found, expected[name].double())
