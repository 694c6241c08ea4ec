"""The training of one SAE on a stream of batches, to be stopped and continued at any update with the same result to the bit."""

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_core.config import TrainingConfig
from sae_core.models.topk import TENSORS, TopKSAE
from sae_core.training.resample import SAMPLED_ROWS, resample_dead
from sae_core.training.schedule import learning_rate
from sae_core.training.update import backward, make_optimiser, step


class Diverged(ValueError):  # noqa: N818 - what happened, not a defect of the program
    """The loss of a training is no longer finite."""


class HeldOut(NamedTuple):
    """Quality on rows that are not trained on."""

    nmse: float
    """Σ‖x−x̂‖²/Σ‖x−μ‖²."""
    l0: float
    """Active latents per row."""


class EpochRecord(NamedTuple):
    """One epoch of the training."""

    epoch: int
    """From 1."""
    update: int
    """Updates done at its end."""
    train_loss: float
    """Mean over the epoch of the mean squared error per element of x/scale, without the auxiliary loss."""
    nmse: float
    """Held-out, at its end, before dead latents are re-initialised."""
    l0: float
    """Held-out."""
    dead_share: float
    """Share of latents that fired on less than dead_rate of the epoch's rows."""
    resampled: int
    """Latents re-initialised at its end."""
    lr: float
    """Learning rate of its last update."""


class Trained(NamedTuple):
    """The SAE of the epoch with the least held-out nmse."""

    tensors: dict[str, Tensor]
    firing_rate: Float[Tensor, " d_sae"]
    """Share of that epoch's rows on which each latent fired, while it was trained."""
    reinitialised: Bool[Tensor, " d_sae"]
    """Latents that had been re-initialised by then, in this training or before."""
    epoch: int
    """That epoch, from 1."""


@final
class Trainer:
    """Runs the updates of one SAE; all that the rest depends on is in `state_dict`."""

    def __init__(self, sae: TopKSAE, config: TrainingConfig, reinitialised: Bool[Tensor, " d_sae"] | None = None) -> None:
        """Train `sae` in place, on the device where it lies.

        Args:
            reinitialised: latents re-initialised before, if the SAE is a warm start.
        """
        self.sae, self.config, self.device = sae, config, sae.W_enc.device
        self.optimiser = make_optimiser(sae, config)
        self.update = 0
        self.history: list[EpochRecord] = []
        self.best: Trained | None = None
        none = torch.zeros(sae.config.d_sae, dtype=torch.bool, device=self.device)
        self._reinitialised = none if reinitialised is None else reinitialised.to(self.device, copy=True)
        self._dead = none.nonzero().squeeze(1)
        self._start_epoch()

    def _start_epoch(self) -> None:
        self._fired = torch.zeros(self.sae.config.d_sae, dtype=torch.int64, device=self.device)
        self._loss = torch.zeros((), dtype=torch.float64, device=self.device)
        self._rows = 0
        self._pool: list[Tensor] = []

    def run(
        self,
        batches: Iterator[Float[Tensor, "batch d_model"]],
        validate: Callable[[TopKSAE], HeldOut],
        on_update: Callable[[int], None] = lambda update: None,
        on_epoch: Callable[[EpochRecord], None] = lambda record: None,
    ) -> Trained:
        """Do the updates that are left and return the best epoch's SAE.

        Args:
            batches: from the batch of update `self.update` on.
            validate: held-out quality of the SAE as it is, called at the end of each epoch.
            on_update: called after each update (and after the end of an epoch, if it ends one) with the updates done; here
                `state_dict` may be saved.
            on_epoch: called with each finished epoch.

        Raises:
            Diverged: the loss is not finite at the end of an epoch.
        """
        while self.update < self.config.updates:
            self._step(next(batches).to(self.device, torch.float32, non_blocking=True))
            if self.update % self.config.updates_per_epoch == 0:
                self._end_epoch(validate(self.sae))
                on_epoch(self.history[-1])
            on_update(self.update)
        assert self.best is not None, "a finished training has a best epoch"
        return self.best

    def _step(self, rows: Tensor) -> None:
        found = backward(self.sae, rows, self.config, self._dead)
        step(self.sae, self.optimiser, learning_rate(self.update, self.config), self.config.grad_clip)
        # sums stay on the device: reading them would make it wait in every update
        self._fired += found.fired
        self._loss += found.loss
        self._rows += len(rows)
        self.update += 1
        left = -self.update % self.config.updates_per_epoch
        if self._resamples_after(self.update + left) and left * self.config.batch < SAMPLED_ROWS:
            self._pool.append(rows)

    def _resamples_after(self, update: int) -> bool:
        every = self.config.resample_epochs * self.config.updates_per_epoch
        return every > 0 and update % every == 0 and update < self.config.updates

    def _end_epoch(self, held_out: HeldOut) -> None:
        train_loss = float(self._loss) / self.config.updates_per_epoch
        if not (math.isfinite(train_loss) and math.isfinite(held_out.nmse)):
            raise Diverged(
                f"The loss of an SAE must stay finite; at update {self.update} the training loss was {train_loss} and the held-out "
                f"nmse {held_out.nmse}. Lower the learning rate, lengthen its warm-up or check the rows."
            )
        rate = self._fired / self._rows
        dead = rate < self.config.dead_rate
        self._keep_if_best(held_out.nmse, rate.float())
        resampled = self._dead[:0]
        if self._resamples_after(self.update):
            seed = self.config.seed + self.update
            resampled = resample_dead(self.sae, self.optimiser, dead, torch.cat(self._pool), seed)
            self._reinitialised[resampled] = True
        self.history.append(
            EpochRecord(
                len(self.history) + 1, self.update, train_loss, held_out.nmse, held_out.l0, float(dead.double().mean()),
                len(resampled), learning_rate(self.update - 1, self.config),
            )
        )  # fmt: skip
        self._dead = dead.index_fill(0, resampled, False).nonzero().squeeze(1)
        self._start_epoch()

    def _keep_if_best(self, nmse: float, rate: Tensor) -> None:
        if all(nmse < record.nmse for record in self.history):
            self.best = Trained(self.sae.tensors(), rate.cpu(), self._reinitialised.cpu().clone(), len(self.history) + 1)

    def state_dict(self) -> dict[str, Any]:
        """A snapshot of everything to go on from here: plain values and tensors, for torch.save and a load with weights_only."""
        state = {
            "update": self.update,
            "sae": self.sae.tensors(),
            "optimiser": self.optimiser.state_dict(),
            "history": [record._asdict() for record in self.history],
            "best": self.best._asdict() if self.best else None,
            "reinitialised": self._reinitialised,
            "dead": self._dead,
            "fired": self._fired,
            "loss": self._loss,
            "rows": self._rows,
            "pool": self._pool,
        }
        return copy.deepcopy(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, with an SAE and a configuration equal to those of then."""
        self.update, self._rows = state["update"], state["rows"]
        with torch.no_grad():
            for name in TENSORS:
                getattr(self.sae, name).copy_(state["sae"][name])
        self.optimiser.load_state_dict(copy.deepcopy(state["optimiser"]))
        self.history = [EpochRecord(**record) for record in state["history"]]
        self.best = Trained(**state["best"]) if state["best"] else None
        for name in ("reinitialised", "dead", "fired", "loss"):
            setattr(self, f"_{name}", state[name].to(self.device, copy=True))
        self._pool = [rows.to(self.device) for rows in state["pool"]]
