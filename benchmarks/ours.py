"""sae_core's update on each of its backends."""

from typing import final

import torch
from torch import Tensor

from benchmarks import truth
from benchmarks.contender import Contender, Precision
from benchmarks.shapes import Shape, Tensors
from sae_core.config.sae import TopKConfig
from sae_core.config.training import TrainingConfig
from sae_core.kernels.backend import Backend
from sae_core.kernels.choice import BackendName
from sae_core.kernels.gradient import RowGradient
from sae_core.models.build import build
from sae_core.training.optimiser import Optimiser
from sae_core.training.update import backward, step

BACKENDS: dict[str, tuple[BackendName, ...]] = {"cpu": ("torch", "native"), "cuda": ("torch", "triton")}
"""By type of device."""


@final
class Ours(Contender):
    """A TopK SAE with a pre-bias of its own, as in the naive update."""

    def __init__(self, shape: Shape, start: Tensors, device: torch.device, backend: Backend, precision: Precision) -> None:
        self.name, self.precision, self.note = backend.name, precision, backend.detail
        tensors = start | {"scale": torch.ones(())}
        self.sae = build(TopKConfig(d_model=shape.d_model, d_sae=shape.d_sae, k=shape.k), tensors).to(device)
        self.config = TrainingConfig(lr=1e-4, updates=10_000, updates_per_epoch=10_000, batch=shape.batch, precision=precision)
        self.optimiser = Optimiser(self.sae, backend)
        self.none, self.k = torch.zeros(0, dtype=torch.int64, device=device), shape.k

    def update(self, rows: Tensor) -> None:
        found = backward(self.sae, rows, self.config, self.optimiser, self.none)
        step(self.sae, self.optimiser, found, self.config.lr, self.config)

    def gradients(self, rows: Tensor, dead: Tensor | None) -> Tensors:
        found = backward(self.sae, rows, self.config, self.optimiser, self.none if dead is None else dead)
        return {
            name: gradient.written_out() if isinstance(gradient, RowGradient) else gradient
            for name, gradient in found.gradients.items()
        }

    def true_loss(self, p: Tensors, rows: Tensor, dead: Tensor | None, active: Tensor | None) -> Tensor:
        z = truth.pre_activations(p, rows, "b_pre")
        error = truth.decoded(p, truth.topk_relu(z, self.k, active)) - rows
        if dead is None:
            return error.square().mean()
        left = truth.dead_decoded(p, z[:, dead].relu(), dead) + error.detach()
        return error.square().mean() + self.config.aux_coef * left.square().mean()

    @torch.no_grad()
    def active(self, rows: Tensor) -> Tensor | None:
        if self.precision == "fp32":
            return None
        centred, encoder = self.sae.centred(rows), self.optimiser.matrices["W_enc"]
        bias = self.sae.get_parameter("b_enc").detach()
        return self.optimiser.backend.topk(centred, encoder, bias, self.k, False, self.precision).dense(len(bias)) > 0
