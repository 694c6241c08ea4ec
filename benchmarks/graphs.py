"""An update on a GPU as one CUDA graph."""

from typing import final

import torch
from torch import Tensor

from benchmarks.contender import Contender
from benchmarks.ours import Ours
from benchmarks.shapes import Tensors

WARM_UP = 3
"""Updates before the capture, so that every buffer exists."""
APART = 1e-5
"""Largest relative distance of weights after as many updates without a graph."""


@final
class Replayed(Contender):
    """The launches of `Ours.update`, recorded once and replayed; gradients are those of the update it records."""

    def __init__(self, ours: Ours, twin: Ours, rows: Tensor) -> None:
        """Record an update on rows like these.

        Args:
            twin: equal to `ours`; does the same updates without a graph, to compare.

        Raises:
            RuntimeError: the update makes the host wait for the device, which a graph cannot, or replays do something else.
        """
        self.ours, self.name, self.precision, self.note = ours, f"{ours.name}, graph", ours.precision, ours.note
        self.rows = rows.clone()
        # steps are counted where a replay can count them
        ours.optimiser.count = torch.zeros((), dtype=torch.int64, device=rows.device)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                ours.update(self.rows)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            ours.update(self.rows)
        self._compare(twin)

    def _compare(self, twin: Ours) -> None:
        """Do as many replays as there were updates before the capture, and all of them by the twin."""
        for _ in range(WARM_UP):
            self.graph.replay()
        for _ in range(2 * WARM_UP):
            twin.update(self.rows)
        for name in twin.sae.trained:
            mine, other = self.ours.sae.get_parameter(name).detach(), twin.sae.get_parameter(name).detach()
            apart = float((mine - other).norm() / other.norm().clamp_min(1e-30))
            if not apart <= APART:
                raise RuntimeError(
                    f"replayed updates must do what updates do; {name} is {apart:.1e} apart. Do not replay this one."
                )

    def update(self, rows: Tensor) -> None:
        self.rows.copy_(rows)
        self.graph.replay()

    def gradients(self, rows: Tensor, dead: Tensor | None) -> Tensors:
        return self.ours.gradients(rows, dead)

    def true_loss(self, p: Tensors, rows: Tensor, dead: Tensor | None, active: Tensor | None) -> Tensor:
        return self.ours.true_loss(p, rows, dead, active)

    def active(self, rows: Tensor) -> Tensor | None:
        return self.ours.active(rows)
