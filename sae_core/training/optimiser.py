"""Adam over the tensors of one SAE: matrices through a backend, vectors by torch."""

import math
from typing import Any

import torch
from torch import Tensor

from sae_core.config.training import TrainingConfig
from sae_core.kernels.backend import Backend, Gradient
from sae_core.kernels.gradient import AdamStep, Matrix, RowGradient
from sae_core.models.sae import SAE
from sae_core.models.sharding import per_latent
from sae_core.training.parallel import ALONE, Parallel
from sae_core.training.records import Moments

MATRICES = ("W_enc", "W_dec")
NO_CLIP = 1 - 1e-6
"""Share of the largest norm up to which rounding cannot turn a clip on."""


class Optimiser:
    """Weights shared with the SAE, moments, and the number of steps done (Kingma and Ba 2015; no weight decay)."""

    def __init__(self, sae: SAE, backend: Backend, parallel: Parallel = ALONE) -> None:
        """Train `sae` from now on.

        Args:
            parallel: the processes that train it together; they start from what the first of them holds.

        Raises:
            ValueError: the SAE is not the part that this process must hold.
        """
        parallel.adopt(sae)
        self.backend, self.parallel, self.count = backend, parallel, 0
        self.matrices: dict[str, Matrix] = {
            name: backend.matrix(getattr(sae, name).detach(), selects=name == "W_enc") for name in MATRICES
        }
        self._per_latent = [name for name in per_latent(sae.config) if name not in MATRICES]
        self._vectors: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        for name in sae.trained:
            if name not in MATRICES:
                tensor = getattr(sae, name).detach()
                self._vectors[name] = (tensor, torch.zeros_like(tensor), torch.zeros_like(tensor))

    @torch.no_grad()
    def step(self, gradients: dict[str, Gradient], lr: float | Tensor, config: TrainingConfig, count: Tensor | None = None) -> None:
        """One step on the gradients of all tensors, clipped together.

        Args:
            count: steps done with this one, as a number on the device that the caller counts; else it is counted here.
        """
        if count is None:
            self.count += 1
        vectors = {name: gradient for name, gradient in gradients.items() if isinstance(gradient, Tensor) and name not in MATRICES}
        unclipped = self._surely_within([gradients[name] for name in MATRICES], vectors, config.grad_clip)
        prepared = {name: self.backend.prepared(gradients[name]) for name in MATRICES}
        shrink = 1.0 if unclipped else self._shrink(prepared, vectors, config.grad_clip)
        base = AdamStep(lr, self.count if count is None else count, shrink, beta1=config.beta1, beta2=config.beta2, eps=config.eps)
        decoder = base._replace(unit_rows=config.unit_decoder, project=config.project_decoder)
        self.backend.adam_(self.matrices["W_enc"], prepared["W_enc"], base)
        if not config.frozen_decoder:
            self.backend.adam_(self.matrices["W_dec"], prepared["W_dec"], decoder)
        thresholds = base._replace(lr=lr * config.threshold_lr_multiple)
        for name, gradient in vectors.items():
            _adam_on_vector_(*self._vectors[name], gradient, thresholds if name == "threshold" else base)

    def _surely_within(self, matrices: list[Gradient], vectors: dict[str, Tensor], largest: float) -> bool:
        """Whether a bound that needs no gradient written out puts the global norm below `largest`: it does in most updates."""
        if any(vector.is_cuda for vector in vectors.values()):
            return False  # looking at a number would make the device wait
        bounds = [float(gradient.norm_bound()) if isinstance(gradient, RowGradient) else math.inf for gradient in matrices]
        square = sum(float(square) for square in self._squares(vectors)) + sum(bound**2 for bound in bounds)
        return sum(self.parallel.latents.numbers(square)) < (largest * NO_CLIP) ** 2

    def _squares(self, vectors: dict[str, Tensor]) -> list[Tensor]:
        """Squared norms whose sum over shards is that of the whole; what every shard holds counts by its share."""
        squares = {name: torch.dot(vector, vector) for name, vector in vectors.items()}
        shards = self.parallel.latents.size
        if shards > 1:
            squares |= {name: square / shards for name, square in squares.items() if name not in self._per_latent}
        return list(squares.values())

    def _shrink(self, prepared: dict[str, Gradient], vectors: dict[str, Tensor], largest: float) -> float | Tensor:
        """What gradients are multiplied by so that their global norm is at most `largest`."""
        squares = self._squares(vectors) + [self.backend.squared_norm(gradient) for gradient in prepared.values()]
        norm = self.parallel.latents.sum_(torch.stack(squares).sum()).sqrt()
        shrink = (largest / (norm + 1e-6)).clamp(max=1)
        return shrink if shrink.is_cuda else float(shrink)

    def forget(self, latents: Tensor) -> None:
        """Set the moments of some latents to 0 and take note that their weights were changed."""
        for matrix in self.matrices.values():
            matrix.exp_avg[latents] = 0
            matrix.exp_avg_sq[latents] = 0
            self.backend.refresh(matrix)
        for name in self._per_latent:
            _, first, second = self._vectors[name]
            first[latents] = 0
            second[latents] = 0

    def state_dict(self) -> dict[str, Any]:
        """Steps and moments: plain values and tensors."""
        moments = {name: (matrix.exp_avg, matrix.exp_avg_sq) for name, matrix in self.matrices.items()}
        moments |= {name: (first, second) for name, (_, first, second) in self._vectors.items()}
        return {"count": self.count, "moments": {name: [tensor.clone() for tensor in pair] for name, pair in moments.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with moments saved before; the weights must have been restored already."""
        self.count = state["count"]
        for name, (first, second) in state["moments"].items():
            if name in self.matrices:
                matrix = self.matrices[name]
                matrix.exp_avg.copy_(first)
                matrix.exp_avg_sq.copy_(second)
                self.backend.refresh(matrix)
            else:
                _, mine_first, mine_second = self._vectors[name]
                mine_first.copy_(first)
                mine_second.copy_(second)

    def moments(self) -> Moments:
        """A copy of the moments."""
        state = {name: [tensor.cpu() for tensor in pair] for name, pair in self.state_dict()["moments"].items()}
        return Moments(self.count, *({name: pair[order] for name, pair in state.items()} for order in (0, 1)))

    def start_from(self, moments: Moments) -> None:
        """Take over moments of an SAE of the same shape, and the number of steps behind them.

        Raises:
            ValueError: they belong to other tensors.
        """
        mine = {name: tuple(first.shape) for name, (first, _) in self.state_dict()["moments"].items()}
        found = {name: tuple(first.shape) for name, first in moments.first.items()}
        if found != mine or moments.second.keys() != mine.keys():
            raise ValueError(
                f"Moments must be those of an SAE of the same kind and shape, {mine}; got {found}. Start from the weights alone."
            )
        pairs = {name: (moments.first[name], moments.second[name]) for name in mine}
        self.load_state_dict({"count": moments.count, "moments": pairs})


def _adam_on_vector_(tensor: Tensor, first: Tensor, second: Tensor, gradient: Tensor, step: AdamStep) -> None:
    gradient = gradient * step.shrink
    first.lerp_(gradient, 1 - step.beta1)
    second.mul_(step.beta2).addcmul_(gradient, gradient, value=1 - step.beta2)
    size = (second.sqrt() / (1 - step.beta2**step.count) ** 0.5).add_(step.eps)
    rate = step.lr / (1 - step.beta1**step.count)
    if isinstance(rate, Tensor):
        tensor.sub_(rate * first / size)
    else:
        tensor.addcdiv_(first, size, value=-rate)
