"""Several SAEs trained side by side on shared rows: each batch is read once for all that want it."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.models.sae import SAE
from sae_core.training.records import Diverged, EpochRecord, HeldOut, Trained
from sae_core.training.trainer import Trainer

Rows = Iterator[Float[Tensor, "batch d_model"]]


@final
class GroupedTrainer:
    """Trainings that advance together, update by update; each gives the bytes that it gives alone.

    Members may differ in kind, k, seed, length and device. One that is finished, or ends early, drops out; the others go on.
    """

    def __init__(self, members: Mapping[str, Trainer], streams: Mapping[str, str] | None = None) -> None:
        """Group trainings that have not begun.

        Args:
            members: the trainings by name.
            streams: which rows each member reads, by any name for them; left out, all read the same.

        Raises:
            ValueError: members of one stream differ in their batch.
        """
        self.members = dict(members)
        self._streams = dict.fromkeys(self.members, "rows") if streams is None else dict(streams)
        assert self.members, "a group has members"
        assert self._streams.keys() == self.members.keys(), "every member has a stream"
        for stream in dict.fromkeys(self._streams.values()):
            batches = {name: self.members[name].config.batch for name, own in self._streams.items() if own == stream}
            if len(set(batches.values())) > 1:
                raise ValueError(
                    f"SAEs that share the rows {stream!r} must have the same batch; got {batches}. "
                    "Give each batch a stream of its own."
                )

    @property
    def update(self) -> int:
        """Updates done by the members that are not finished; of all once they are."""
        return max(trainer.update for trainer in self.members.values())

    @property
    def updates(self) -> int:
        """Updates in all of the longest training."""
        return max(trainer.config.updates for trainer in self.members.values())

    @property
    def active(self) -> dict[str, Trainer]:
        """Members that are not finished."""
        return {name: trainer for name, trainer in self.members.items() if not trainer.finished}

    def run(
        self,
        batches: Mapping[str, Rows] | Rows,
        validate: Callable[[Mapping[str, SAE]], Mapping[str, HeldOut]],
        on_update: Callable[[int], None] = lambda update: None,
        on_epoch: Callable[[str, EpochRecord], None] = lambda name, record: None,
    ) -> dict[str, Trained]:
        """Do the updates that are left; what each member leaves, by name.

        Args:
            batches: the rows of each stream from the batch of update `self.update` on; an iterator alone where there is one stream.
            validate: held-out quality of all SAEs whose epoch ends with this update, so that they can share one reading.
            on_update: as in `Trainer.run`, after all members did an update.
            on_epoch: called with each member's finished epoch.

        Raises:
            Diverged: the loss of a member, which is named, is no longer finite.
            ValueError: a row is not finite, or a stream ends too early.
        """
        sources = batches if isinstance(batches, Mapping) else dict.fromkeys(self._streams.values(), batches)
        while active := self.active:
            update = self.update
            self._advance(active, sources)
            ended = {name: trainer for name, trainer in active.items() if trainer.update % trainer.config.updates_per_epoch == 0}
            found = validate({name: trainer.sae for name, trainer in ended.items()}) if ended else {}
            for name, trainer in ended.items():
                with _named(name):
                    on_epoch(name, trainer.end_epoch(found[name]))
            on_update(update + 1)
        return {name: trainer.best for name, trainer in self.members.items() if trainer.best is not None}

    def _advance(self, active: Mapping[str, Trainer], sources: Mapping[str, Rows]) -> None:
        """One update of each member that is not finished."""
        rows: dict[str, Tensor] = {}
        moved: dict[tuple[str, torch.device], Tensor] = {}
        for name, trainer in active.items():
            stream = self._streams[name]
            if stream not in rows:
                rows[stream] = self._next(stream, sources[stream], trainer.config.updates)
            place = (stream, trainer.device)
            if place not in moved:
                moved[place] = rows[stream].to(trainer.device, torch.float32, non_blocking=True)
            with _named(name):
                trainer.advance(moved[place])

    def _next(self, stream: str, source: Rows, updates: int) -> Tensor:
        rows = next(source, None)
        if rows is None:
            raise ValueError(
                f"A training of {updates} updates must be given as many batches; the stream {stream!r} ended after "
                f"{self.update}. Give more rows, or train for fewer updates."
            )
        return rows

    def state_dict(self) -> dict[str, Any]:
        """A snapshot of all members, for torch.save and a load with weights_only."""
        return {name: trainer.state_dict() for name, trainer in self.members.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken, with members equal to those of then."""
        for name, trainer in self.members.items():
            trainer.load_state_dict(state[name])


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except Diverged as error:
        raise Diverged(f"{name}: {error}", error.update, name) from error
