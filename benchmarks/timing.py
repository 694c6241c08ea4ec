"""Time of several updates taken in turn, so that a busy machine slows all alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

WARM_UP = 2
"""Rounds that do not count."""

Update = Callable[[Tensor], object]


class Times(NamedTuple):
    """Milliseconds of one update."""

    median: float
    low: float
    """A quarter of the updates took less."""
    high: float
    """A quarter of the updates took more."""
    count: int
    """Updates measured."""


def interleaved(
    updates: Mapping[str, Update], batches: list[Tensor], seconds: float, clock: Callable[[Update, Tensor], float], least: int = 5
) -> dict[str, Times]:
    """Times of each update: rounds of one call each, all on the same batch, for about `seconds` and at least `least` rounds."""
    spent: dict[str, list[float]] = {name: [] for name in updates}
    end, turn = time.monotonic() + seconds, 0
    while turn < WARM_UP + least or time.monotonic() < end:
        for name, update in updates.items():
            spent[name].append(clock(update, batches[turn % len(batches)]))
        turn += 1
    return {name: times_of(found[WARM_UP:]) for name, found in spent.items()}


def times_of(seconds: list[float]) -> Times:
    """Quartiles in milliseconds."""
    low, median, high = (1e3 * quartile for quartile in statistics.quantiles(seconds, n=4, method="inclusive"))
    return Times(median, low, high, len(seconds))


def clock_of(device: torch.device, threads: int) -> Callable[[Update, Tensor], float]:
    """Seconds of one call. One thread: processor time of the process, whatever else runs; more: wall time; CUDA: events."""
    if device.type == "cuda":
        return _cuda_seconds
    tick = time.process_time if threads == 1 else time.perf_counter

    def seconds(update: Update, rows: Tensor) -> float:
        before = tick()
        update(rows)
        return tick() - before

    return seconds


REPEATS = 10
"""Updates between two CUDA events: launches overlap as they do in training."""


def _cuda_seconds(update: Update, rows: Tensor) -> float:
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    first.record()
    for _ in range(REPEATS):
        update(rows)
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1e3 / REPEATS
