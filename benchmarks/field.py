"""Who takes part: the naive update, ours on every backend and in every precision, and the peers; who is absent, and why."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from benchmarks.contender import Contender, Precision
from benchmarks.graphs import Replayed
from benchmarks.naive import Naive
from benchmarks.ours import BACKENDS, Ours
from benchmarks.peers import PEERS, peer
from benchmarks.shapes import Shape, Tensors, batches_of
from sae_core.kernels.choice import BackendName, choose_backend


class Entry(NamedTuple):
    """One name in the table."""

    name: str
    precision: Precision
    make: Callable[[Shape, Tensors, torch.device], Contender]
    """Raises ImportError, ValueError or RuntimeError if it cannot take part here."""


def entries(device: torch.device) -> Iterator[Entry]:
    """Everyone that could take part on this kind of device, the naive update first."""
    yield Entry("naive", "fp32", Naive)
    for name in BACKENDS[device.type]:
        for precision in ("fp32", "bf16"):
            yield Entry(name, precision, _ours(name, precision))
            if device.type == "cuda":
                yield Entry(f"{name}, graph", precision, _replayed(name, precision))
    for name in PEERS:
        yield Entry(name, "fp32", lambda shape, start, device, name=name: peer(name, shape, start, device))


def _ours(name: BackendName, precision: Precision) -> Callable[[Shape, Tensors, torch.device], Contender]:
    return lambda shape, start, device: Ours(shape, start, device, choose_backend(name, device), precision)


def _replayed(name: BackendName, precision: Precision) -> Callable[[Shape, Tensors, torch.device], Contender]:
    def make(shape: Shape, start: Tensors, device: torch.device) -> Contender:
        ours, twin = (Ours(shape, start, device, choose_backend(name, device), precision) for _ in range(2))
        return Replayed(ours, twin, batches_of(shape, 1)[0].to(device))

    return make
