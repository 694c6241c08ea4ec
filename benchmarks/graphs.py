"""An update on a GPU as one CUDA graph."""

from typing import final

import torch
from torch import Tensor

from benchmarks.contender import Contender
from benchmarks.ours import Ours
from benchmarks.shapes import Tensors

WARM_UP = 3
"""Updates before the capture, so that every buffer exists."""


@final
class Replayed(Contender):
    """The launches of `Ours.update`, recorded once and replayed; gradients are those of the update it records."""

    def __init__(self, ours: Ours, rows: Tensor) -> None:
        """Record an update on rows like these.

        Raises:
            RuntimeError: the update makes the host wait for the device, which a graph cannot.
        """
        self.ours, self.name, self.precision, self.note = ours, f"{ours.name}, graph", ours.precision, ours.note
        self.rows = rows.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                ours.update(self.rows)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            ours.update(self.rows)

    def update(self, rows: Tensor) -> None:
        self.rows.copy_(rows)
        self.graph.replay()

    def gradients(self, rows: Tensor, dead: Tensor | None) -> Tensors:
        return self.ours.gradients(rows, dead)

    def true_loss(self, p: Tensors, rows: Tensor, dead: Tensor | None, active: Tensor | None) -> Tensor:
        return self.ours.true_loss(p, rows, dead, active)

    def active(self, rows: Tensor) -> Tensor | None:
        return self.ours.active(rows)
