"""The backend that is always there: torch's own operations, sparse where that pays, on any device."""

from collections import deque
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim.adam import adam

from sae_core.kernels import sparse
from sae_core.kernels.backend import Backend, Gradient, Precision, Reconstruction
from sae_core.kernels.codes import ByLatent, Codes, equally_many
from sae_core.kernels.gradient import AdamStep, Matrix, RowGradient

DENSE_FROM = {"cpu": 0.2, "cuda": 0.005}
"""Bytes per second over operations per second: of a CPU core with AVX-512 in float32, and of an H200 in bfloat16."""


@final
class TorchBackend(Backend):
    """Sparse products by `embedding_bag`, selection in two levels, torch's fused Adam on gradients that are written out."""

    name = "torch"

    def __init__(self, device: torch.device) -> None:
        self.detail = f"torch {torch.__version__}, {device.type}"
        self.dense_from = DENSE_FROM[device.type]
        self._held: deque[Tensor] = deque(maxlen=2)

    def matrix(self, weights: Float[Tensor, "d_sae d_model"], selects: bool) -> Matrix:
        return Matrix(weights, torch.zeros_like(weights), torch.zeros_like(weights))

    def encoder(self, weights: Float[Tensor, "d_sae d_model"]) -> Matrix:
        return Matrix(weights, weights.new_empty(0), weights.new_empty(0))

    def refresh(self, matrix: Matrix) -> None:
        pass

    def topk(
        self,
        centred: Float[Tensor, "row d_model"],
        encoder: Matrix,
        b_enc: Float[Tensor, " d_sae"],
        k: int,
        absolute: bool,
        precision: Precision,
    ) -> Codes:
        z = pre_activations(centred, encoder.weights, b_enc, precision)
        _, latents = sparse.topk_rows(z.abs() if absolute else z, k)
        return equally_many(latents, z.gather(1, latents))

    def transpose(self, codes: Codes, d_sae: int) -> ByLatent:
        return sparse.by_latent(codes, d_sae)

    def reconstruct(
        self,
        codes: Codes,
        entries: ByLatent,
        W_dec: Float[Tensor, "d_sae d_model"],
        b_dec: Float[Tensor, " d_model"],
        target: Float[Tensor, "row d_model"],
    ) -> Reconstruction:
        error = sparse.decode(codes, W_dec).add_(b_dec).sub_(target)
        return Reconstruction(error, sparse.entry_gradients(error, W_dec, entries))

    def prepared(self, gradient: Gradient) -> Gradient:
        if not isinstance(gradient, RowGradient):
            return gradient
        # holding on to the last two keeps their pages: fetching new ones from the system takes longer than filling them
        self._held.append(gradient.written_out())
        return self._held[-1]

    def squared_norm(self, gradient: Gradient) -> Float[Tensor, ""]:
        assert isinstance(gradient, Tensor), "only prepared gradients"
        return torch.dot(gradient.view(-1), gradient.view(-1))

    def adam_(self, matrix: Matrix, gradient: Gradient, step: AdamStep) -> None:
        assert isinstance(gradient, Tensor), "only prepared gradients"
        adam_on_matrix_(matrix, gradient, step)


def pre_activations(
    centred: Float[Tensor, "row d_model"],
    W_enc: Float[Tensor, "d_sae d_model"],
    b_enc: Float[Tensor, " d_sae"],
    precision: Precision,
) -> Float[Tensor, "row d_sae"]:
    """centred · W_encᵀ + b_enc of all latents."""
    if precision == "fp32":
        return torch.addmm(b_enc, centred, W_enc.T)
    return (centred.bfloat16() @ W_enc.bfloat16().T).float() + b_enc


def adam_on_matrix_(matrix: Matrix, gradient: Float[Tensor, "d_sae d_model"], step: AdamStep) -> None:
    """One step of Adam on a gradient that is written out; the gradient is overwritten."""
    weights = matrix.weights
    # a product with 1 is left out where looking at the number does not make a device wait
    if isinstance(step.shrink, Tensor) or step.shrink != 1:
        gradient.mul_(step.shrink)
    if step.project:
        size = weights.square().sum(1, keepdim=True).clamp_min_(1e-24)
        gradient.addcmul_(weights, (gradient * weights).sum(1, keepdim=True) / size, value=-1)
    count = torch.tensor(float(step.count - 1), device=weights.device)
    adam(
        [weights], [gradient], [matrix.exp_avg], [matrix.exp_avg_sq], [], [count], fused=True, amsgrad=False, maximize=False,
        beta1=step.beta1, beta2=step.beta2, lr=step.lr, weight_decay=0.0, eps=step.eps,
    )  # fmt: skip
    if step.unit_rows:
        sparse.unit_rows_(weights)
