"""What the training of a step-level SAE tells of itself."""

import csv
import io
from collections.abc import Sequence
from typing import NamedTuple

from sae_core.training.step_records import StepQuality, StepUpdate


class Evaluation(NamedTuple):
    """One row of history.csv: the updates since the row before, and the held-out steps behind them."""

    update: int
    epoch: int
    """From 1."""
    lr: float
    """Of the last update, as is `weight`."""
    weight: float
    """Of the L1 norm in the loss."""
    train_nll: float
    """Nats per scored token with hidden tokens and noise (phase 1); per latent (phases 2 and 3)."""
    train_l1: float
    """L1 norm per step."""
    nll: float
    """Held-out, without hidden tokens and noise, as are the next ones."""
    l1: float
    l0: float
    """Active latents per step."""
    active_share: float
    """l0 as a share of all latents."""


class Running(NamedTuple):
    """Sums over the updates since the last evaluation."""

    nll: float = 0.0
    scored: int = 0
    l1: float = 0.0
    steps: int = 0

    def plus(self, told: StepUpdate, phase: int) -> "Running":
        """With one update more."""
        scored = told.tokens if phase == 1 else told.steps
        return Running(
            self.nll + told.nll * scored, self.scored + scored, self.l1 + told.l1 * told.steps, self.steps + told.steps
        )  # fmt: skip

    def evaluation(self, told: StepUpdate, quality: StepQuality, updates_per_epoch: int) -> Evaluation:
        """The row of an evaluation behind the update that was told last."""
        epoch = (told.update - 1) // updates_per_epoch + 1
        means = self.nll / self.scored, self.l1 / self.steps
        return Evaluation(told.update, epoch, told.lr, told.weight, *means, *quality)


def history_csv(history: Sequence[Evaluation]) -> str:
    """One line per evaluation; its bytes depend on the records alone."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(Evaluation._fields)
    table.writerows(history)
    return text.getvalue()
