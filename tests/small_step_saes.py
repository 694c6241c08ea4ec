"""Small step-level SAEs around tiny language models, and irregular steps for them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from sae_core.config.step_training import StepTrainingConfig
from sae_core.models.step_batch import StepBatch
from sae_core.models.step_sae import StepSAE
from workflow.step_saes import fresh_step_sae
from workflow.step_tokens import step_tokenizer

LENGTHS = ((4, 6), (9, 2), (2, 11), (12, 3), (7, 8), (5, 5), (8, 10))
"""Tokens in front of each step, and of the step with its end."""


def made(base: Path, factor: int = 1, *, prior: bool = False, seed: int = 0) -> StepSAE:
    """A fresh SSAE around a tiny model, the same at every call."""
    torch.manual_seed(seed)
    model = fresh_step_sae(base, factor=factor, blocks=None, vocab=step_tokenizer(base).vocab, prior=prior)
    for module in (model.encoder, model.decoder):  # random backbones of this size hardly depend on their input
        for parameter in module.parameters():
            parameter.data.mul_(2)
    return model


def batch(rows: Iterable[int]) -> StepBatch:
    """Some of the steps, padded to the longest of them."""
    start, step = (torch.tensor(column) for column in zip(*(LENGTHS[row % len(LENGTHS)] for row in rows), strict=True))
    length = start + step
    ids = torch.zeros(len(start), int(length.max()), dtype=torch.int64)
    for place, row in enumerate(rows):
        drawn = torch.randint(3, 200, (int(length[place]),), generator=torch.Generator().manual_seed(row))
        ids[place, : len(drawn)] = drawn
    return StepBatch(ids, start, length)


def micro_batches(steps: int, size: int) -> list[StepBatch]:
    """The first steps in micro-batches, the last of which may be smaller."""
    return [batch(range(first, min(first + size, steps))) for first in range(0, steps, size)]


def settings(**given: Any) -> StepTrainingConfig:
    """Short and fast by default."""
    usual = {"updates_per_epoch": 2, "epochs": 30, "lr": 1e-4, "min_lr": 1e-5, "seed": 3}
    return StepTrainingConfig(**(usual | given))
