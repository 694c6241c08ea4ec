"""Training of a step-level SAE from steps to files; killed at any moment, it goes on and gives the same bytes."""

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import distributed

from sae_core.training.parallel import ALONE, Parallel
from sae_core.training.records import Diverged
from sae_core.training.step_records import StepUpdate
from sae_core.training.step_sharding import sharded_loss
from sae_core.training.step_trainer import StepTrainer
from workflow.config.section import ConfigError
from workflow.config.ssae import SsaeConfig
from workflow.devices import choose_device
from workflow.formats.files import remove_scratch, replacing, scratch_folder
from workflow.formats.step_saes import write_step_tensors
from workflow.formats.steps import StepStore
from workflow.progress import Progress
from workflow.ssae.compiling import compile_language_models
from workflow.ssae.feeding import division
from workflow.ssae.publishing import Kept, publish_step_sae
from workflow.ssae.records import Evaluation, Running
from workflow.ssae.starting import Start, control_of, prepare_bottleneck, starting_point, training_config
from workflow.ssae.step_stream import Draw, HeldOutSteps, StepStream
from workflow.step_saes import backbone_blocks, checkpoint_activations

log = logging.getLogger(__name__)
SECONDS_BETWEEN_SAVES = 600.0
NOWHERE = {"run": None, "chain": None, "stage": None}
STATE, BEST = "state.pt", "best.safetensors"
SHOWN = 8
"""Steps of a bad update that an error names."""


class Steps(NamedTuple):
    """What is trained on and what is held out."""

    train: StepStore
    train_steps: np.ndarray
    valid: StepStore
    valid_steps: np.ndarray


def train_step_sae(
    *, steps: Path | str, valid: Path | str | None, base: Path | str, given: Path | str | None, folder: Path | str,
    settings: SsaeConfig, seed: int, device: str, key: str, steps_digest: str, parallel: Parallel = ALONE, shard: bool = False,
    published: Path | str | None = None, save_seconds: float = SECONDS_BETWEEN_SAVES, place: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train one SSAE, write its files, return facts for the provenance. Several processes must see the same files.

    Args:
        steps: steps.h5 to train on.
        valid: steps.h5 that are held out; None: a share of the problems of `steps`, or their split `val`.
        base: folder of the base model.
        given: manifest.json of an SSAE, or a published file, to start from; None for a fresh one.
        folder: where step_sae.safetensors, base/, history.csv and, last, manifest.json are written.
        seed: of initialisation, order, hidden tokens and noise.
        device: `auto`, `cpu` or `cuda`.
        key: digest of everything that the result depends on.
        steps_digest: of `steps`, for the manifest.
        parallel: the processes that train together.
        shard: whether they share the weights, for models that one device does not hold.
        published: also write the last state in the released layout, with AdamW's moments, to this file.
        save_seconds: time between two states from which a killed training goes on.
        place: run, chain and stage for the manifest; None: it belongs to no study.

    Raises:
        ConfigError: settings, steps, base model and files do not fit each other, or the training diverged.
    """
    if published is not None and not (settings.training.train_embeddings and settings.training.encoder_lr_multiple > 0):
        raise ConfigError(
            "A file in the released layout holds AdamW's moments of all tensors, so ssae.training.train_embeddings must be true "
            f"and ssae.training.encoder_lr_multiple above 0; got {settings.training.train_embeddings} and "
            f"{settings.training.encoder_lr_multiple:g}. Set them so, or write no such file."
        )
    where = choose_device(device)
    folder = Path(folder)
    start = starting_point(settings, Path(base), None if given is None else Path(given), seed)
    with _opened(steps, valid, settings, seed) as stores:
        stream = StepStream(stores.train, stores.train_steps, settings, seed)
        trainer = _trainer(start, settings, stream, seed, where, parallel, shard)
        held_out = HeldOutSteps(stores.valid, stores.valid_steps, settings.training.micro_batch)
        run = _Run(trainer, stream, held_out, settings, _shared_scratch(folder, key, parallel), save_seconds)
        resumed = run.resume()
        run.run()
    facts = {
        **(place or NOWHERE), "seed": seed, "parent": start.parent, "steps": steps_digest, "train_steps": len(stream.steps),
        "held_out_steps": len(held_out.steps), "updates": trainer.update, "target_l1": settings.target_l1,
        "legacy": sorted(name for name, on in settings.legacy if on),
    }  # fmt: skip
    kept = Kept(run.history, run.best, run.scratch / BEST)
    publish_step_sae(folder, trainer, Path(base), kept, settings, facts, published)
    if parallel.both.index == 0:
        remove_scratch(run.scratch)
    told = {"device": str(where), "precision": trainer.config.precision, "processes": parallel.both.size, "sharded": shard}
    return told | {"resumed_at_update": resumed, "kept_update": run.best}


@contextlib.contextmanager
def _opened(steps: Path | str, valid: Path | str | None, settings: SsaeConfig, seed: int) -> Iterator[Steps]:
    with contextlib.ExitStack() as stack:
        train = stack.enter_context(StepStore(steps))
        if valid is None:
            parts = division(train, valid_share=settings.data.valid_share, seed=seed)
            yield Steps(train, parts.train, train, parts.valid)
        else:
            other = stack.enter_context(StepStore(valid))
            yield Steps(train, np.arange(len(train)), other, np.arange(len(other)))


def _trainer(
    start: Start, settings: SsaeConfig, stream: StepStream, seed: int, device: torch.device, parallel: Parallel, shard: bool
) -> StepTrainer:
    config = training_config(settings, stream.updates_per_epoch, seed, device)
    rows = start.model.encoder.get_input_embeddings().num_embeddings  # type: ignore[operator]  # a transformers model
    if rows != stream.store.vocab:
        raise ConfigError(
            f"The SSAE must have an embedding row for each of the {stream.store.vocab} tokens that its steps were made of; it has "
            f"{rows}. Make the steps with the tokenizer of its base model."
        )
    model = start.model.to(device)
    if settings.initialisation == "at_target" and settings.training.phase == 1:
        prepare_bottleneck(model, stream, settings, parallel.both, fresh=start.parent is None)
    if settings.training.gradient_checkpointing:
        checkpoint_activations(model)
    if settings.training.compile:
        compile_language_models(model, device)
    loss = sharded_loss(model, config, backbone_blocks(model), device) if shard and parallel.both.size > 1 else None
    trainer = StepTrainer(model, config, control_of(settings), ranks=parallel.both, loss=loss)
    if start.moments is not None:
        trainer.load_moments(start.moments)
    return trainer


def _shared_scratch(folder: Path, key: str, parallel: Parallel) -> Path:
    """The scratch folder, made by the first process."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if parallel.both.index == 0:
        scratch_folder(folder, key)
    if parallel.both.size > 1:
        distributed.barrier(group=parallel.both.group)
    return folder.parent / ".partial" / f"{folder.name}.{key}"


class _Run:
    """The loop, and what of it must outlive a kill."""

    def __init__(
        self,
        trainer: StepTrainer,
        stream: StepStream,
        held_out: HeldOutSteps,
        settings: SsaeConfig,
        scratch: Path,
        save_seconds: float,
    ) -> None:
        self.trainer, self.stream, self.held_out, self.settings, self.scratch = trainer, stream, held_out, settings, scratch
        self.save_seconds, self.first = save_seconds, trainer.ranks.index == 0
        self.total = min(trainer.config.updates, settings.training.max_updates or trainer.config.updates)
        self.interval = max(1, round(stream.updates_per_epoch / settings.training.evaluations_per_epoch))
        self.history: list[Evaluation] = []
        self.running = Running()

    @property
    def best(self) -> int:
        """The update whose weights are kept."""
        rows = self.history[-1:] if self.settings.training.keep == "last" else self.history
        return min(rows, key=lambda row: row.nll).update

    def resume(self) -> int:
        """Go on from a saved state if there is one; the updates done by then."""
        path = self.scratch / STATE
        if path.exists():
            state = torch.load(path, weights_only=True, mmap=True)
            self.trainer.load_state_dict(state["trainer"])
            self.history = [Evaluation(*row) for row in state["history"]]
            self.running = Running(*state["running"])
            log.info("going on after update %d of %d", self.trainer.update, self.total)
        return self.trainer.update

    def run(self) -> None:
        """All updates that are left."""
        saved = time.monotonic()
        draws = self.stream.updates(self.trainer.update)
        with Progress(self.total, "training SSAE", "updates", done=self.trainer.update) as progress:
            while self.trainer.update < self.total:
                told, seconds = self._advance(next(draws))
                evaluated = told.update % self.interval == 0 or told.update == self.total
                if evaluated:
                    self._evaluate(told)
                due = self.trainer.ranks.numbers(int(time.monotonic() - saved >= self.save_seconds))[0]
                if evaluated or due:
                    self._save()
                    saved = time.monotonic()
                progress.advance(note=_note(told, seconds, self.history))

    def _advance(self, draw: Draw) -> tuple[StepUpdate, float]:
        started = time.monotonic()
        try:
            told = self.trainer.advance(draw.batches)
        except Diverged as error:
            named = ", ".join(map(str, draw.steps[:SHOWN]))
            more = f" and {len(draw.steps) - SHOWN} more" if len(draw.steps) > SHOWN else ""
            raise ConfigError(
                f"{error} Settings: ssae.training.lr, ssae.training.precision. Its steps are numbers {named}{more} of steps.h5. "
                f"The last good state is kept in {self.scratch}."
            ) from error
        self.running = self.running.plus(told, self.trainer.config.phase)
        return told, time.monotonic() - started

    def _evaluate(self, told: StepUpdate) -> None:
        row = self.running.evaluation(told, self.trainer.evaluate(self.held_out), self.stream.updates_per_epoch)
        if not math.isfinite(row.nll):
            raise ConfigError(
                f"The held-out loss must be finite; after update {row.update} it is {row.nll}. Lower ssae.training.lr, or compute "
                f"in fp32 (ssae.training.precision). The last good state is kept in {self.scratch}."
            )
        self.history.append(row)
        self.running = Running()
        log.info("%s", ", ".join(f"{name} {value:.4g}" for name, value in row._asdict().items()))
        wanted = [BEST] if self.best == row.update else []
        if self.settings.training.keep == "all":
            wanted.append(f"update_{row.update:08d}.safetensors")
        if wanted:
            tensors = self.trainer.weights()
            for name in wanted if self.first else []:
                write_step_tensors(self.scratch / name, tensors)

    def _save(self) -> None:
        trainer = self.trainer.state_dict()
        if self.first:
            state = {"trainer": trainer, "history": [tuple(row) for row in self.history], "running": tuple(self.running)}
            with replacing(self.scratch / STATE) as temporary:
                torch.save(state, temporary)


def _note(told: StepUpdate, seconds: float, history: list[Evaluation]) -> str:
    rates = f"{told.steps / seconds:.3g} steps/s, {told.tokens / seconds:.3g} scored tokens/s"
    held_out = f", held-out nll {history[-1].nll:.4f}" if history else ""
    return f"nll {told.nll:.4f}, L1 {told.l1:.3f}{held_out}, {rates}"
