"""Updates as a CUDA graph: the launches of an update become one.

Nobody has run the replay on a GPU yet; what runs without one is that updates read their rates from the device.
"""

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_core.config.training import TrainingConfig
from sae_core.models.sae import SAE
from sae_core.models.topk import TopKSAE
from sae_core.training.optimiser import Optimiser
from sae_core.training.update import Batch, backward

WARM_UP = 3
"""Updates that are launched one by one before they are recorded, so that kernels are compiled and buffers exist."""


@final
class GraphedUpdates:
    """`backward` and `step` of an SAE whose shapes nothing that is found in a batch can change.

    The learning rate and the count of steps are numbers on the device, before the recording as after it: a training gives the same
    bytes wherever it was stopped. A new shape of batches or a new choice of dead latents is recorded anew.
    """

    def __init__(self, sae: SAE, config: TrainingConfig, optimiser: Optimiser) -> None:
        """Prepare the updates of `sae`.

        Raises:
            ValueError: the kind of SAE chooses how many codes a batch has, or several processes train it.
        """
        if not isinstance(sae, TopKSAE) or optimiser.parallel.both.size > 1:
            raise ValueError(
                "Graphed updates must be those of an SAE with k latents per row in one process; got "
                f"{type(sae).__name__} in {optimiser.parallel.both.size}. Train it without."
            )
        self.sae, self.config, self.optimiser = sae, config, optimiser
        self._lr = torch.zeros((), dtype=torch.float64, device=sae.W_enc.device)
        self._count = torch.zeros_like(self._lr)
        self._rows, self._dead = sae.W_enc.new_empty(0), torch.empty(0, dtype=torch.int64)
        self._launched = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._found: Batch | None = None

    def update(self, rows: Float[Tensor, "batch d_model"], dead: Int[Tensor, " dead"], lr: float) -> Batch:
        """One update; what it found lasts until the next."""
        if rows.shape != self._rows.shape or dead is not self._dead:
            self._rows, self._dead = torch.empty_like(rows), dead
            self._launched, self._graph = 0, None
        self._rows.copy_(rows)
        self.optimiser.count += 1
        self._lr.fill_(lr)
        self._count.fill_(self.optimiser.count)
        if rows.is_cuda and self._launched >= WARM_UP:
            return self._replayed()
        self._launched += 1
        return self._update()

    def _update(self) -> Batch:
        batch = backward(self.sae, self._rows, self.config, self.optimiser, self._dead)
        self.optimiser.step(batch.gradients, self._lr, self.config, self._count)
        return batch

    def _replayed(self) -> Batch:
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._found = self._update()
        self._graph.replay()
        assert self._found is not None, "recorded"
        return self._found
