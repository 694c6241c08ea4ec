"""The training of one SAE on a stream of batches, to be stopped and continued at any update with the same result to the bit."""

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_core.config.training import TrainingConfig
from sae_core.kernels.backend import Backend
from sae_core.kernels.torch_backend import TorchBackend
from sae_core.models.sae import SAE
from sae_core.training.graphed import GraphedUpdates
from sae_core.training.optimiser import Optimiser
from sae_core.training.parallel import ALONE, Parallel
from sae_core.training.records import Diverged, EpochRecord, HeldOut, Moments, Trained
from sae_core.training.resample import SAMPLED_ROWS, due, resample_dead, updates_until_due
from sae_core.training.schedule import learning_rate
from sae_core.training.update import Batch, backward, step


@final
class Trainer:
    """Runs the updates of one SAE; all that the rest depends on is in `state_dict`."""

    def __init__(
        self,
        sae: SAE,
        config: TrainingConfig,
        reinitialised: Bool[Tensor, " d_sae"] | None = None,
        backend: Backend | None = None,
        moments: Moments | None = None,
        parallel: Parallel = ALONE,
        graphed: bool = False,
    ) -> None:
        """Train `sae` in place, on the device where it lies.

        Args:
            reinitialised: latents re-initialised before, if the SAE is a warm start.
            backend: see `sae_core.kernels.choice`; plain torch if left out.
            moments: Adam's at the end of the training that left `sae`; with their count the first updates are of usual size.
            parallel: the processes that train it together, each in a trainer with its part of the SAE and the same configuration.
            graphed: replay updates as a CUDA graph, see `GraphedUpdates`; with a backend that never waits for the device.

        Raises:
            ValueError: updates of this kind of SAE cannot be graphed, or `moments` are of another shape.
        """
        self.sae, self.config, self.device, self.parallel = sae, config, sae.W_enc.device, parallel
        self.optimiser = Optimiser(sae, backend or TorchBackend(self.device), parallel)
        if moments is not None:
            self.optimiser.start_from(moments)
        self._graphed = GraphedUpdates(sae, config, self.optimiser) if graphed else None
        self.update = 0
        self.history: list[EpochRecord] = []
        self.best: Trained | None = None
        self._good = (0, sae.tensors())
        none = torch.zeros(sae.config.d_sae, dtype=torch.bool, device=self.device)
        self._reinitialised = none if reinitialised is None else reinitialised.to(self.device, copy=True)
        self._dead = none.nonzero().squeeze(1)
        self._fired = torch.zeros(sae.config.d_sae, dtype=torch.int64, device=self.device)
        self._fired_since_resampling = torch.zeros_like(self._fired)
        self._loss = torch.zeros((), dtype=torch.float64, device=self.device)
        self._rows = self._rows_since_resampling = self._resampled = 0
        self._pool: list[Tensor] = []

    @property
    def finished(self) -> bool:
        """Whether all updates are done, or the last `patience` epochs brought nothing."""
        waited = len(self.history) - (self.best.epoch if self.best else 0)
        return self.update >= self.config.updates or 0 < self.config.patience <= waited

    def run(
        self,
        batches: Iterator[Float[Tensor, "batch d_model"]],
        validate: Callable[[SAE], HeldOut | None],
        on_update: Callable[[int], None] = lambda update: None,
        on_epoch: Callable[[EpochRecord], None] = lambda record: None,
    ) -> Trained:
        """Do the updates that are left and return the best epoch's SAE.

        Args:
            batches: from the batch of update `self.update` on; of several processes, each its share, see `Parallel.mine`.
            validate: held-out quality of the SAE as it is, called at the end of each epoch; None leaves an epoch unmeasured, which
                `keep_epoch: last` alone allows. Of several processes, all must find the same, see `quality_on`.
            on_update: called after each update (and after the end of an epoch, if it ends one) with the updates done; here
                `state_dict` may be saved.
            on_epoch: called with each finished epoch.

        Raises:
            Diverged: the loss is no longer finite; the SAE is then back at the end of the last good epoch.
            ValueError: a row is not finite, or there are fewer batches than updates.
        """
        while not self.finished:
            rows = next(batches, None)
            if rows is None:
                raise ValueError(
                    f"A training of {self.config.updates} updates must be given as many batches; the stream ended after "
                    f"{self.update}. Give more rows, or train for fewer updates."
                )
            self.advance(rows)
            if self.update % self.config.updates_per_epoch == 0:
                on_epoch(self.end_epoch(validate(self.sae)))
            on_update(self.update)
        assert self.best is not None, "a finished training has a best epoch"
        return self.best

    def advance(self, rows: Float[Tensor, "batch d_model"]) -> None:
        """One update. `end_epoch` must be called after every `updates_per_epoch` of them."""
        rows = rows.to(self.device, torch.float32, non_blocking=True)
        batch = self._updated(rows)
        self._fired += batch.fired
        self._fired_since_resampling += batch.fired
        self._loss += batch.loss
        self._rows += len(rows) * self.parallel.rows.size
        self._rows_since_resampling += len(rows) * self.parallel.rows.size
        self.update += 1
        left = updates_until_due(self.update, self.config)
        if left is not None and left * self.config.batch < SAMPLED_ROWS:
            self._pool.append(self.parallel.rows.joined(rows))
        if due(self.update, self.config) and not self.config.resample_epochs:
            self._resample()

    def _updated(self, rows: Tensor) -> Batch:
        lr = learning_rate(self.update, self.config)
        if self._graphed is not None:
            return self._graphed.update(rows, self._dead, lr)
        batch = backward(self.sae, rows, self.config, self.optimiser, self._dead, self.update)
        # looking at a number makes a GPU wait; there the sum over the epoch is looked at
        if self.device.type != "cuda" and not math.isfinite(float(batch.loss)):
            self._give_up(self.update + 1, float(batch.loss), rows)
        step(self.sae, self.optimiser, batch, lr, self.config)
        return batch

    def _give_up(self, update: int, loss: float, rows: Tensor | None = None) -> None:
        bad = [] if rows is None else (~torch.isfinite(rows)).any(1).nonzero().squeeze(1).tolist()
        if bad:
            raise ValueError(
                f"Rows must be finite; of the batch of update {update}, row {bad[0]} and {len(bad) - 1} more are not. "
                "Check the store they come from."
            )
        self.update, tensors = self._good
        with torch.no_grad():
            for name, tensor in tensors.items():
                getattr(self.sae, name).copy_(tensor)
        raise Diverged(
            f"The loss of an SAE must stay finite; at update {update} it was {loss}. The SAE is back at its state after update "
            f"{self.update}. Lower the learning rate, lengthen its warm-up or check the rows.",
            update,
        )

    def _resample(self) -> None:
        dead = self._fired_since_resampling < self.config.dead_rate * self._rows_since_resampling
        latents = resample_dead(self.sae, self.optimiser, dead, torch.cat(self._pool), self.config, self.config.seed + self.update)
        self._reinitialised[latents] = True
        self._resampled += sum(self.parallel.latents.numbers(len(latents)))
        still = torch.zeros_like(dead).index_fill_(0, self._dead, True).index_fill_(0, latents, False)
        self._dead = still.nonzero().squeeze(1)
        self._fired_since_resampling.zero_()
        self._rows_since_resampling = 0
        self._pool = []

    def end_epoch(self, held_out: HeldOut | None) -> EpochRecord:
        """Close an epoch with the quality of the SAE as it is, None if it was not measured."""
        assert held_out or self.config.keep_epoch == "last", "the best epoch is known where all are measured"
        train_loss = float(self._loss) / self.config.updates_per_epoch
        for number in (train_loss, *(held_out[:1] if held_out else ())):
            if not math.isfinite(number):
                self._give_up(self.update, number)
        rate = self._fired / self._rows
        dead = rate < self.config.dead_rate
        dead_share = float(self.parallel.latents.joined(dead.double()).mean())
        if self.config.keep_epoch == "last" or self._better(held_out):
            kept = self._reinitialised.cpu().clone()
            moments = self.optimiser.moments() if self.config.keep_moments else None
            self.best = Trained(self.sae.tensors(), rate.float().cpu(), kept, len(self.history) + 1, moments)
        self._dead = dead.nonzero().squeeze(1)
        if due(self.update, self.config) and self.config.resample_epochs:
            self._fired_since_resampling, self._rows_since_resampling = self._fired.clone(), self._rows
            self._resample()
        record = EpochRecord(
            len(self.history) + 1, self.update, train_loss, held_out and held_out.nmse, held_out and held_out.l0, dead_share,
            self._resampled, learning_rate(self.update - 1, self.config),
        )  # fmt: skip
        self.history.append(record)
        self._fired.zero_()
        self._loss.zero_()
        self._rows = self._resampled = 0
        self._good = (self.update, self.sae.tensors())
        return record

    def _better(self, held_out: HeldOut | None) -> bool:
        """Whether this epoch is the best so far; False where it was not measured."""
        measured = [record.nmse for record in self.history if record.nmse is not None]
        return held_out is not None and all(held_out.nmse < nmse for nmse in measured)

    def state_dict(self) -> dict[str, Any]:
        """A snapshot of everything to go on from here: plain values and tensors, for torch.save and a load with weights_only."""
        state = {
            "sae": self.sae.tensors(),
            "optimiser": self.optimiser.state_dict(),
            "history": [record._asdict() for record in self.history],
            "best": _plain(self.best) if self.best else None,
            "good": list(self._good),
            **{name: getattr(self, name) for name in PLAIN},
            **{name: getattr(self, name) for name in SUMS},
            "_pool": self._pool,
        }
        return copy.deepcopy(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, with an SAE and a configuration equal to those of then."""
        with torch.no_grad():
            for name, tensor in state["sae"].items():
                getattr(self.sae, name).copy_(tensor)
        self.optimiser.load_state_dict(copy.deepcopy(state["optimiser"]))
        self.history = [EpochRecord(**record) for record in state["history"]]
        self.best = _trained(state["best"]) if state["best"] else None
        self._good = (state["good"][0], state["good"][1])
        for name in PLAIN:
            setattr(self, name, state[name])
        for name in SUMS:
            setattr(self, name, state[name].to(self.device, copy=True))
        self._pool = [rows.to(self.device) for rows in state["_pool"]]


def _plain(best: Trained) -> dict[str, Any]:
    return {**best._asdict(), "moments": best.moments._asdict() if best.moments else None}


def _trained(best: dict[str, Any]) -> Trained:
    return Trained(**{**best, "moments": Moments(**best["moments"]) if best["moments"] else None})


PLAIN = ("update", "_rows", "_rows_since_resampling", "_resampled")
SUMS = ("_reinitialised", "_dead", "_fired", "_fired_since_resampling", "_loss")
