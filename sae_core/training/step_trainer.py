"""Training of step-level SAEs: the exact mean over all steps of an update, in micro-batches and on several processes.

What an update does depends on the state before it, its batches, the seed and its number alone, so a training goes on bit by bit
wherever it was stopped (on a CPU, with the same number of threads).
"""

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from sae_core.config.step_training import StepTrainingConfig
from sae_core.models.step_batch import StepBatch
from sae_core.models.step_sae import StepSAE
from sae_core.training.ranks import ONE, Ranks
from sae_core.training.records import Diverged
from sae_core.training.sparsity_control import SparsityControl, StepwiseControl
from sae_core.training.step_gradients import clipped_norm, reduced
from sae_core.training.step_loss import StepLoss
from sae_core.training.step_records import StepQuality, StepUpdate
from sae_core.training.step_schedule import step_learning_rate
from sae_core.training.step_sharding import gathered_state, is_sharded, load_gathered, local_states, put_away
from sae_core.training.step_update import StepTerms


@final
class StepTrainer:
    """A step-level SAE, AdamW, and the controller of its sparsity."""

    def __init__(
        self,
        model: StepSAE,
        config: StepTrainingConfig,
        control: SparsityControl,
        *,
        ranks: Ranks = ONE,
        loss: StepLoss | None = None,
    ) -> None:
        """Train what the phase trains; in several processes, all must hold the same weights.

        Args:
            model: on its device, in float32.
            ranks: processes that share the micro-batches of an update.
            loss: what `sharded_loss` gave, where the processes share the weights, too.

        Raises:
            ValueError: the phase trains a module that the model lacks, or weights are not float32.
        """
        if loss is None:
            model.train_phase(config.phase, embeddings=config.train_embeddings)
        self.model, self.config, self.control, self.ranks = model, config, control, ranks
        self.loss = loss or StepLoss(model, config)
        self.trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        if other := {str(parameter.dtype) for parameter in self.trained.values()} - {"torch.float32"}:
            raise ValueError(
                f"Trained weights must be float32; got {', '.join(other)}. Convert the model; bf16 is a precision of products."
            )
        betas = (config.beta1, config.beta2)
        self.optimiser = torch.optim.AdamW(self._groups(), lr=config.lr, betas=betas, weight_decay=config.weight_decay, fused=True)
        self.update = 0

    def _groups(self) -> list[dict[str, Any]]:
        """Trained tensors by the multiple of the learning rate that they move at; one group where all move alike."""
        multiples = {name: self.config.encoder_lr_multiple if name.startswith("encoder.") else 1.0 for name in self.trained}
        return [
            {"params": [self.trained[name] for name, own in multiples.items() if own == multiple], "multiple": multiple}
            for multiple in sorted(set(multiples.values()))
        ]

    @property
    def device(self) -> torch.device:
        """Where it is trained."""
        return self.model.autoencoder.latent_bias.device

    @property
    def finished(self) -> bool:
        """Whether all updates are done."""
        return self.update >= self.config.updates

    def advance(self, batches: Sequence[StepBatch]) -> StepUpdate:
        """One update.

        Args:
            batches: all its micro-batches, the same sequence on every process; each takes its own out of it and no other.

        Raises:
            Diverged: loss or gradient is not finite; weights, moments and controller are those of before the update.
        """
        self.loss.train()
        lr, weight = step_learning_rate(self.update, self.config), self.control.weight
        own = [(place, batches[place], counts) for place, counts in self._places(len(batches))]
        tokens, steps = (sum(self.ranks.numbers(number)) for number in _counts([batch for _, batch, counts in own if counts]))
        table = torch.zeros(len(batches), 4, dtype=torch.float64, device=self.device)
        for place, batch, counts in own:
            terms: StepTerms = self.loss(batch.to(self.device), (self.update, place))
            share = self._shares(batch, tokens, steps) if counts else (0.0, 0.0)
            (terms.nll * share[0] + terms.l1 * (share[1] * self.control.weight)).backward()
            if counts:
                table[place] = torch.stack([terms.nll.detach(), terms.l1.detach(), *map(table.new_tensor, _counts([batch]))])
                self._observe_own(table[place])
        return self._step(lr, weight, table, tokens, steps)

    @torch.no_grad()
    def evaluate(self, batches: Sequence[StepBatch]) -> StepQuality:
        """Means over held-out steps (of the NLL in phase 1, over all scored tokens), the same bits for any number of processes.

        Args:
            batches: the same sequence on every process; each takes its own out of it and no other.
        """
        self.loss.eval()
        table = torch.zeros(len(batches), 5, dtype=torch.float64, device=self.device)
        for place, counts in self._places(len(batches)):
            sums = self.loss(batches[place].to(self.device), (place,))
            if counts:
                table[place] = sums
        put_away(self.loss)
        nll, l1, l0, tokens, steps = self.ranks.sum_(table).cpu().sum(0).tolist()
        return StepQuality(
            nll / (tokens if self.config.phase == 1 else steps), l1 / steps, l0 / steps, l0 / steps / self.model.d_code
        )

    def _places(self, batches: int) -> list[tuple[int, bool]]:
        """Micro-batches of this process; sharded weights need all to compute as often, so some repeat one that does not count."""
        ranks = self.ranks
        own = [(place, True) for place in range(ranks.index, batches, ranks.size)]
        if is_sharded(self.loss) and len(own) < -(-batches // ranks.size):
            own.append((0, False))
        return own

    def _shares(self, batch: StepBatch, tokens: int, steps: int) -> tuple[float, float]:
        """Factors with which the sums of a micro-batch stand in the loss."""
        processes = 1
        if self.config.legacy.sum_accumulation:
            # gradients of processes were averaged, those of micro-batches added up
            processes = self.ranks.size
            tokens, steps = _counts([batch])
        return 1 / ((tokens if self.config.phase == 1 else steps) * processes), 1 / (steps * processes)

    def _step(self, lr: float, weight: float, table: Tensor, tokens: int, steps: int) -> StepUpdate:
        gradients = [_gradient(parameter) for parameter in self.trained.values()]
        if not is_sharded(self.loss):
            reduced(gradients, self.ranks)
        sums = self.ranks.sum_(table).cpu()
        norm = clipped_norm(gradients, self.config.grad_clip)
        self._check(sums, norm)
        for group in self.optimiser.param_groups:
            group["lr"] = lr * group["multiple"]
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self._observe(sums)
        self.update += 1
        nll, l1 = sums[:, :2].sum(0).tolist()
        return StepUpdate(
            self.update, lr, weight, nll / (tokens if self.config.phase == 1 else steps), l1 / steps, norm, tokens, steps
        )  # fmt: skip

    def _check(self, sums: Tensor, norm: float) -> None:
        bad = (~sums.isfinite().all(1)).nonzero().flatten().tolist()
        if not bad and norm < float("inf"):
            return
        self.optimiser.zero_grad(set_to_none=True)
        where = (
            f"the loss of its micro-batches {', '.join(map(str, bad))} of {len(sums)}" if bad else f"its gradient, of norm {norm}"
        )
        raise Diverged(
            f"Loss and gradient must stay finite; in update {self.update + 1}, {where} is not. Weights are as before it. "
            "Lower the learning rate, or compute in fp32 if it was bf16; if it repeats there, look at the steps of that update.",
            self.update + 1,
        )

    def _observe_own(self, row: Tensor) -> None:
        if self.config.phase == 1 and self.config.legacy.local_controller:
            self.control.observe(float(row[1] / row[3]))

    def _observe(self, sums: Tensor) -> None:
        """Show one controller what all processes found: every micro-batch to the published one, their mean to ours."""
        if self.config.phase > 1 or self.config.legacy.local_controller:
            return
        if isinstance(self.control, StepwiseControl):
            for l1, steps in sums[:, [1, 3]].tolist():
                self.control.observe(l1 / steps)
        else:
            self.control.observe(float(sums[:, 1].sum() / sums[:, 3].sum()))

    def weights(self) -> dict[str, Tensor]:
        """All tensors by released name, on the CPU; all processes must call it, of sharded weights the first one gets them."""
        return gathered_state(dict(self.model.named_parameters()))

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs to go on bit by bit, in plain values and tensors; all processes must call it.

        Of sharded weights the first process gets all, on the CPU; what the others get cannot be loaded.
        """
        return {
            "update": self.update,
            "control": local_states(self.control.state(), self.ranks),
            "model": self.weights(),
            "optimiser": gathered_state(self.moments()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.update = state["update"]
        controls = state["control"]
        self.control.resume(controls[self.ranks.index % len(controls)])
        with torch.no_grad():
            load_gathered(dict(self.model.named_parameters()), state["model"])
        self.load_moments(state["optimiser"])

    def moments(self) -> dict[str, Tensor]:
        """AdamW's state as `<number>.<exp_avg, exp_avg_sq or step>`, trained tensors numbered in the released order."""
        states = (self.optimiser.state.get(parameter, {}) for parameter in self.trained.values())
        return {f"{place}.{name}": tensor for place, state in enumerate(states) for name, tensor in state.items()}

    def load_moments(self, moments: Mapping[str, Tensor]) -> None:
        """Take AdamW's state from `moments`, of this training or of a released file.

        Raises:
            ValueError: numbers or shapes are not those of the trained tensors.
        """
        numbers = {int(name.partition(".")[0]) for name in moments}
        if numbers and numbers != set(range(len(self.trained))):
            raise ValueError(
                f"The state of AdamW must be that of the {len(self.trained)} tensors that phase {self.config.phase} trains; it is "
                f"of {len(numbers)}. Give a file of the same phase and base model, or start without its optimizer."
            )
        for place, (name, parameter) in enumerate(self.trained.items()):
            for moment in ("exp_avg", "exp_avg_sq") if numbers else ():
                if (found := moments[f"{place}.{moment}"].shape) != parameter.shape:
                    raise ValueError(
                        f"Moments must have the shapes of their tensors, in the order of the released files; number {place} is "
                        f"{tuple(found)} and {name} is {tuple(parameter.shape)}. Give a file of the same base model."
                    )
        self.optimiser.state.clear()
        for place, parameter in enumerate(self.trained.values()) if numbers else ():
            fresh = {moment: torch.zeros_like(parameter) for moment in ("exp_avg", "exp_avg_sq")}
            load_gathered(fresh, {moment: moments[f"{place}.{moment}"] for moment in fresh})
            # fused AdamW counts on the device
            step = moments[f"{place}.step"].to(device=self.device, dtype=torch.float32, copy=True)
            self.optimiser.state[parameter] = {"step": step, **fresh}


def _counts(batches: Sequence[StepBatch]) -> tuple[int, int]:
    """Scored tokens and steps."""
    return sum(int((batch.length - batch.start).sum()) for batch in batches), sum(len(batch.length) for batch in batches)


def _gradient(parameter: Tensor) -> Tensor:
    """Zeros where nothing was computed, as in a process without a micro-batch."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad
