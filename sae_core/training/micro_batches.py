"""Cutting the steps of an update into pieces that fit into memory."""

import torch

from sae_core.models.step_batch import StepBatch


def micro_batches(batch: StepBatch, size: int, *, by_length: bool = True) -> list[StepBatch]:
    """Pieces of at most `size` steps, each padded to its own longest; together the same steps.

    Args:
        by_length: steps of like length together, the longest first: least padding, and what does not fit into memory fails at
            once. False keeps the order given.
    """
    steps = len(batch.length)
    order = torch.argsort(batch.length, descending=True, stable=True) if by_length else torch.arange(steps)
    return [_rows(batch, order[first : first + size]) for first in range(0, steps, size)]


def _rows(batch: StepBatch, rows: torch.Tensor) -> StepBatch:
    length = batch.length[rows]
    return StepBatch(batch.ids[rows][:, : int(length.max())], batch.start[rows], length)
