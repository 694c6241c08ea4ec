"""The updates of a training: which steps each takes, cut into micro-batches."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, overload

import numpy as np

from sae_core.models.step_batch import StepBatch
from sae_core.training.micro_batches import micro_batches
from workflow.config.section import ConfigError
from workflow.config.ssae import SsaeConfig
from workflow.formats.steps import StepStore
from workflow.ssae.feeding import batch_count, batches


class Draw(NamedTuple):
    """One update's steps."""

    batches: list[StepBatch]
    steps: list[int]
    """Which of the store they are."""


class StepStream:
    """All updates of a training, epoch behind epoch; any of them can be the first."""

    def __init__(self, store: StepStore, steps: np.ndarray, settings: SsaeConfig, seed: int) -> None:
        """
        Raises:
            ConfigError: there are too few steps for one update.
        """
        self.store, self.steps, self.seed = store, steps, seed
        self.settings, self.legacy = settings.training, settings.legacy
        if self.updates_per_epoch < 1:
            raise ConfigError(
                f"With ssae.legacy.drop_tail, an epoch must hold ssae.training.batch = {self.settings.batch} steps or more; got "
                f"{len(steps)}. Lower the batch, or leave the flag off."
            )

    @property
    def updates_per_epoch(self) -> int:
        """Updates of one pass; the last one may have fewer steps."""
        batch, micro = self.settings.batch, self.settings.micro_batch
        if self.legacy.drop_tail:
            return batch_count(len(self.steps), micro) // (batch // micro)
        return batch_count(len(self.steps), batch)

    def updates(self, done: int) -> Iterator[Draw]:
        """Those behind the first `done`, without end."""
        settings = self.settings
        # the published sums of micro-batch means depend on which steps stand together
        by_length = not self.legacy.sum_accumulation
        while True:
            epoch, first = divmod(done, self.updates_per_epoch)
            fed = batches(
                self.store, self.steps, batch_size=settings.batch, seed=self.seed, epoch=epoch, shuffle=settings.shuffle,
                bucket=settings.bucket, first=first,
            )  # fmt: skip
            for one in fed:
                if one.number == self.updates_per_epoch:
                    break
                yield Draw(micro_batches(one.batch, settings.micro_batch, by_length=by_length), one.steps.tolist())
            done += self.updates_per_epoch - first


class HeldOutSteps(Sequence[StepBatch]):
    """Held-out steps in batches of like length, each read when it is asked for."""

    def __init__(self, store: StepStore, steps: np.ndarray, size: int) -> None:
        self.store, self.size = store, size
        self.steps = steps[np.argsort(-store.lengths()[steps], kind="stable")]

    def __len__(self) -> int:
        return batch_count(len(self.steps), self.size)

    @overload
    def __getitem__(self, place: int) -> StepBatch: ...
    @overload
    def __getitem__(self, place: slice) -> list[StepBatch]: ...
    def __getitem__(self, place: int | slice) -> StepBatch | list[StepBatch]:
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        if not 0 <= place < len(self):
            raise IndexError(place)
        return self.store.batch(self.steps[place * self.size : (place + 1) * self.size])
