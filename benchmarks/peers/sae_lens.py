"""SAELens (package sae-lens): dense products, autograd, codes measured in units of decoder norms."""

import os
from typing import final

import torch
from torch import Tensor

from benchmarks import truth
from benchmarks.contender import Contender
from benchmarks.shapes import Shape, Tensors

os.environ.setdefault("WANDB_MODE", "disabled")

from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.sae import TrainStepInput
from sae_lens.training.sae_trainer import SAETrainer

NAMES = ("W_enc", "W_dec", "b_enc", "b_dec")


@final
class SAELens(Contender):
    """`SAETrainer.step`: training_forward_pass, backward, clip, Adam, statistics."""

    name, precision = "sae-lens", "fp32"

    def __init__(self, shape: Shape, start: Tensors, device: torch.device) -> None:
        self.sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=shape.d_model, d_sae=shape.d_sae, k=shape.k, device=str(device)))
        with torch.no_grad():
            for name in NAMES:
                getattr(self.sae, name).copy_(start[name].T if name == "W_enc" else start[name])
        config = SAETrainerConfig(
            total_training_samples=100_000 * shape.batch, train_batch_size_samples=shape.batch, lr_end=3e-4, device=str(device)
        )
        self.trainer = SAETrainer(config, self.sae, iter(()))

    def update(self, rows: Tensor) -> None:
        self.trainer.step(rows)
        self.trainer.n_training_steps += 1

    def gradients(self, rows: Tensor, dead: Tensor | None) -> Tensors:
        mask = None if dead is None else torch.zeros(self.sae.cfg.d_sae, dtype=torch.bool, device=rows.device)
        scene = TrainStepInput(
            sae_in=rows,
            dead_neuron_mask=mask if mask is None or dead is None else mask.index_fill(0, dead, True),
            coefficients={},
            n_training_steps=0,
            is_logging_step=False,
        )
        loss = self.sae.training_forward_pass(scene).loss
        found = dict(zip(NAMES, torch.autograd.grad(loss, [getattr(self.sae, name) for name in NAMES]), strict=True))
        return found | {"W_enc": found["W_enc"].T}

    def true_loss(self, p: Tensors, rows: Tensor, dead: Tensor | None, active: Tensor | None) -> Tensor:
        norms = p["W_dec"].norm(dim=1)
        z = truth.pre_activations(p, rows, "b_dec") * norms
        error = truth.decoded(p, truth.topk_relu(z, self.sae.cfg.k, active) / norms) - rows
        if dead is None:
            return truth.summed(error)
        left = truth.dead_decoded(p, z[:, dead] / norms[dead], dead) + error.detach()
        scale = min(len(dead) / (rows.shape[1] // 2), 1.0)
        return truth.summed(error) + self.sae.cfg.aux_loss_coefficient * scale * truth.summed(left)
