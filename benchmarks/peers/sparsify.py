"""EleutherAI's sparsify (package eai-sparsify): an encoder with a backward pass of its own, a sparse decoder."""

from typing import final
from unittest import mock

import torch
from torch import Tensor

from benchmarks import truth
from benchmarks.contender import Contender, Precision
from benchmarks.shapes import Shape, Tensors

if torch.cuda.is_available():
    from sparsify import SparseCoder, SparseCoderConfig
else:
    # the module asks CUDA for bfloat16 while it is imported
    with mock.patch("torch.cuda.is_bf16_supported", return_value=False):
        from sparsify import SparseCoder, SparseCoderConfig

AUX_COEF = 1 / 32
"""Its trainer leaves AuxK out unless it is asked for; updates are timed without, gradients checked with it."""


@final
class Sparsify(Contender):
    """What its Trainer does to one module with `optimizer="adam"`, bitsandbytes aside."""

    name = "eai-sparsify"

    def __init__(self, shape: Shape, start: Tensors, device: torch.device) -> None:
        self.precision: Precision = "bf16" if device.type == "cuda" else "fp32"
        self.sae = SparseCoder(shape.d_model, SparseCoderConfig(num_latents=shape.d_sae, k=shape.k), device=device)
        self.parameters = {
            "W_enc": self.sae.encoder.weight,
            "W_dec": self.sae.W_dec,
            "b_enc": self.sae.encoder.bias,
            "b_dec": self.sae.b_dec,
        }
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(start[name])
        self.optimiser = torch.optim.Adam(self.sae.parameters(), lr=2e-4 / (shape.d_sae / 2**14) ** 0.5)
        self.since_fired = torch.zeros(shape.d_sae, dtype=torch.int64, device=device)

    def update(self, rows: Tensor) -> None:
        self.sae.set_decoder_norm_to_unit_norm()
        found = self.sae(rows)
        found.fvu.backward()
        self.sae.remove_gradient_parallel_to_decoder_directions()
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.since_fired += len(rows)
        self.since_fired[found.latent_indices.flatten()] = 0

    def gradients(self, rows: Tensor, dead: Tensor | None) -> Tensors:
        mask = None if dead is None else torch.zeros_like(self.since_fired, dtype=torch.bool).index_fill(0, dead, True)
        found = self.sae(rows, dead_mask=mask)
        loss = found.fvu + AUX_COEF * found.auxk_loss
        return dict(zip(self.parameters, torch.autograd.grad(loss, list(self.parameters.values())), strict=True))

    def true_loss(self, p: Tensors, rows: Tensor, dead: Tensor | None, active: Tensor | None) -> Tensor:
        z, total = truth.pre_activations(p, rows, "b_dec"), (rows - rows.mean(0)).square().sum()
        error = truth.decoded(p, truth.topk_relu(z, self.sae.cfg.k, active)) - rows
        loss = error.square().sum() / total
        if dead is None:
            return loss
        left = truth.dead_decoded(p, z[:, dead].relu(), dead) + error.detach()
        scale = min(len(dead) / (rows.shape[1] // 2), 1.0)
        return loss + AUX_COEF * scale * left.square().sum() / total

    @torch.no_grad()
    def active(self, rows: Tensor) -> Tensor | None:
        if self.precision == "fp32":
            return None
        found = self.sae(rows)
        kept = torch.zeros(len(rows), len(self.since_fired), dtype=torch.bool, device=rows.device)
        return kept.scatter(1, found.latent_indices, found.latent_acts > 0)
