"""The update as most public code writes it: dense linear layers, a scatter of the top k, autograd, Adam."""

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import truth
from benchmarks.contender import Contender
from benchmarks.shapes import Shape, Tensors


@final
class Naive(Contender):
    """The structure of OhhMoo SAE-RL, decoder stored [d_model, d_sae], with a ReLU behind the selection as in Gao et al. 2024."""

    name, precision, has_aux = "naive", "fp32", False

    def __init__(self, shape: Shape, start: Tensors, device: torch.device) -> None:
        self.k, self.encoder = shape.k, nn.Linear(shape.d_model, shape.d_sae, device=device)
        self.decoder = nn.Linear(shape.d_sae, shape.d_model, device=device)
        self.b_pre = nn.Parameter(start["b_pre"].to(device, copy=True))
        with torch.no_grad():
            self.encoder.weight.copy_(start["W_enc"])
            self.encoder.bias.copy_(start["b_enc"])
            self.decoder.weight.copy_(start["W_dec"].T)
            self.decoder.bias.copy_(start["b_dec"])
        self.parameters = [*self.encoder.parameters(), *self.decoder.parameters(), self.b_pre]
        self.optimiser = torch.optim.Adam(self.parameters, lr=1e-4)

    def loss(self, rows: Tensor) -> Tensor:
        z = self.encoder(rows - self.b_pre)
        values, latents = torch.topk(z, self.k, dim=-1)
        codes = torch.zeros_like(z).scatter(1, latents, values.relu())
        return functional.mse_loss(self.decoder(codes), rows)

    def update(self, rows: Tensor) -> None:
        self.optimiser.zero_grad()
        self.loss(rows).backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        with torch.no_grad():
            weight = self.decoder.weight
            weight.div_(weight.norm(dim=0, keepdim=True).clamp_min(1e-12))

    def gradients(self, rows: Tensor, dead: Tensor | None) -> Tensors:
        parameters = {
            "W_enc": self.encoder.weight,
            "W_dec": self.decoder.weight,
            "b_enc": self.encoder.bias,
            "b_dec": self.decoder.bias,
            "b_pre": self.b_pre,
        }
        found = dict(zip(parameters, torch.autograd.grad(self.loss(rows), list(parameters.values())), strict=True))
        return found | {"W_dec": found["W_dec"].T}

    def true_loss(self, p: Tensors, rows: Tensor, dead: Tensor | None, active: Tensor | None) -> Tensor:
        codes = truth.topk_relu(truth.pre_activations(p, rows, "b_pre"), self.k, active)
        return (truth.decoded(p, codes) - rows).square().mean()
