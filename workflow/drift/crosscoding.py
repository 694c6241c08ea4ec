"""Training of one crosscoder on the paired rows of all stages; killed at any moment, it goes on and gives the same bytes."""

import csv
import hashlib
import io
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sae_core.config.crosscoder import CrosscoderConfig
from sae_core.config.training import TrainingConfig
from sae_core.kernels.backend import Backend
from sae_core.kernels.choice import BackendName, choose_backend
from sae_core.metrics.reconstruction import ReconstructionSums, mean_l0, nmse, reconstruction_sums
from sae_core.models.crosscoder import initial_crosscoder
from sae_core.models.sae import SAE
from sae_core.training.records import Diverged, EpochRecord, HeldOut, Trained
from sae_core.training.trainer import Trainer
from workflow.config.joint import CrosscoderSettings
from workflow.config.section import ConfigError
from workflow.devices import choose_device
from workflow.drift.inputs import Cell, stores_by_stage
from workflow.drift.joint_store import JointRows, JointStore, open_joint_rows
from workflow.formats.activations import RowFilter, ShuffledBatches, damage_set_aside
from workflow.formats.crosscoders import ARTEFACT
from workflow.formats.files import file_digest, remove_scratch, replacing, scratch_folder, write_text
from workflow.formats.manifest import read_manifest, write_manifest
from workflow.formats.saes import write_plain
from workflow.formats.shards import ARTEFACT as SHARD
from workflow.progress import Progress

log = logging.getLogger(__name__)
FIRST_ROWS = 8192
"""Rows, drawn at random, whose mean and size start the crosscoder."""
BATCH_ROWS = 2048
"""Held-out rows encoded together."""
SECONDS_BETWEEN_SAVES = 120.0


class Scope(NamedTuple):
    """Which crosscoder it is, and how it is trained."""

    run: str
    text: str
    seed: int
    layer: int
    stages: list[tuple[str, int]]
    """(name, PPO updates), base first."""
    keep: RowFilter
    settings: CrosscoderSettings

    def stream(self, purpose: str) -> int:
        """Seed of one random stream."""
        return int.from_bytes(hashlib.sha256(f"{self.seed}/{self.layer}/crosscoder/{purpose}".encode()).digest()[:6], "big")


def train_crosscoder(
    *, stores: Sequence[Path | str], crosscoder: Path | str, history: Path | str, manifest: Path | str, scope: Scope, device: str,
    key: str, backend: BackendName = "auto", save_seconds: float = SECONDS_BETWEEN_SAVES,
) -> dict[str, Any]:  # fmt: skip
    """Train and write `crosscoder`, `history` and `manifest`; facts for the provenance.

    Args:
        stores: manifests of the held-out shards of every stage.
        crosscoder: crosscoder.safetensors, in whose folder the state of a killed training is kept under `key`.
        history: history.csv, one line per epoch; `nmse` and `l0` are empty where they were not measured.
        manifest: manifest.json.
        scope: which crosscoder it is.
        device: `auto`, `cpu` or `cuda`.
        key: digest of settings, code and inputs.
        backend: `auto`, `torch`, `native` or `triton`.
        save_seconds: time between two states from which a killed training goes on.

    Raises:
        ConfigError: rows of stages are unpaired or of two widths, there are too few rows or problems, k does not go into d_sae, the
            training diverged, or a shard is damaged; that shard is then set aside, so that the next run builds it anew.
    """
    where = choose_device(device)
    shards = stores_by_stage(stores, Cell(scope.run, scope.text, "", scope.seed, scope.layer), [name for name, _ in scope.stages])
    scratch = scratch_folder(crosscoder, key)
    with damage_set_aside():
        rows = open_joint_rows(shards, scope.keep, scope.settings.train_share)
        try:
            engine = choose_backend(backend, where)
            trainer = _trainer(scope, rows, engine, where)
            resumed = _resume(trainer, scratch)
            trained = _run(trainer, scope, rows, scratch, save_seconds)
        except Diverged as error:
            raise ConfigError(f"{error} (setting: drift.crosscoder.lr.)") from error
        except ValueError as error:
            raise ConfigError(str(error)) from error
    write_plain(crosscoder, trained.tensors)
    write_text(history, _history_csv(trainer.history))
    digest = file_digest(crosscoder)
    write_manifest(manifest, ARTEFACT, **_facts(scope, rows, trainer), stores=_digests(shards), digest=digest)
    remove_scratch(scratch)
    return {"device": str(where), "backend": engine.name, "backend_detail": engine.detail, "resumed_at_update": resumed}


def _trainer(scope: Scope, rows: JointRows, engine: Backend, device: torch.device) -> Trainer:
    settings, store = scope.settings, rows.train
    if len(store) < settings.batch:
        raise ConfigError(
            f"drift.crosscoder.batch must be at most the rows that it is trained on, {len(store)}; got {settings.batch}. "
            "Lower it, or raise problems.splits.val and problems.splits.test."
        )
    stages, per_epoch = len(scope.stages), len(store) // settings.batch
    config = CrosscoderConfig(d_model=store.d_model, stages=stages, d_sae=settings.expansion * store.width, k=settings.k)
    training = TrainingConfig(
        lr=settings.lr, updates=settings.epochs * per_epoch, updates_per_epoch=per_epoch, batch=settings.batch,
        aux_coef=settings.aux_coef, aux_k=16 * settings.k, threshold_rate=settings.threshold_rate, unit_decoder=False,
        keep_epoch="last", seed=scope.stream("resampling"),
    )  # fmt: skip
    first = ShuffledBatches(store, min(len(store), FIRST_ROWS), settings.buffer_rows, scope.stream("first rows")).batches()
    start = initial_crosscoder(config, next(first), scope.stream("directions"))
    return Trainer(start.to(device), training, backend=engine)


def _resume(trainer: Trainer, scratch: Path) -> int:
    """Go on from a saved state if there is one; the updates done by then."""
    state = scratch / "trainer.pt"
    if state.exists():
        trainer.load_state_dict(torch.load(state, weights_only=True, map_location=trainer.device))
        log.info("going on after update %d of %d", trainer.update, trainer.config.updates)
    return trainer.update


def _run(trainer: Trainer, scope: Scope, rows: JointRows, scratch: Path, save_seconds: float) -> Trained:
    total, saved, settings = trainer.config.updates, time.monotonic(), scope.settings
    batches = ShuffledBatches(rows.train, settings.batch, settings.buffer_rows, scope.stream("rows")).batches(trainer.update)
    with Progress(total, "training crosscoder", "updates", done=trainer.update) as progress:

        def after_update(update: int) -> None:
            nonlocal saved
            progress.advance()
            if update < total and time.monotonic() - saved >= save_seconds:
                with replacing(scratch / "trainer.pt") as temporary:
                    torch.save(trainer.state_dict(), temporary)
                saved = time.monotonic()

        def after_epoch(sae: SAE) -> HeldOut | None:
            measured = trainer.update == total or len(trainer.history) % settings.measured_every == settings.measured_every - 1
            return _quality(sae, rows.held_out) if measured else None

        return trainer.run(batches, after_epoch, after_update)


@torch.no_grad()
def _quality(sae: SAE, store: JointStore) -> HeldOut:
    """nmse of the joint rows in normalised units, so that all stages weigh alike, and active latents per row."""
    device = sae.W_enc.device
    sums = ReconstructionSums.zeros(1, store.d_model, device)
    for batch, _ in store.sequential(BATCH_ROWS):
        x = batch.to(device)
        codes, together = sae.encode(x), torch.zeros(len(x), dtype=torch.int64, device=device)
        scaled, x_hat = sae.normalised(x).rows, sae.decode(codes) / sae.scale
        sums = sums + reconstruction_sums(scaled, x_hat, together, 1, sae.b_dec.detach().double(), codes.active_per_row())
    return HeldOut(float(nmse(sums)), float(mean_l0(sums)))


def _facts(scope: Scope, rows: JointRows, trainer: Trainer) -> dict[str, Any]:
    last, settings = trainer.history[-1], scope.settings
    return {
        "run": scope.run, "text": scope.text, "seed": scope.seed, "layer": scope.layer, "hook_point": rows.train.hook_point,
        "d_model": rows.train.width, "d_sae": trainer.sae.config.d_sae, "k": settings.k,
        "stages": [list(stage) for stage in scope.stages], "problems": rows.problems, "train_rows": len(rows.train),
        "train_problems": rows.train.rows["problem"].nunique(), "held_out_rows": len(rows.held_out),
        "train_share": settings.train_share, "row_filter": scope.keep._asdict(), "updates": trainer.update, "nmse": last.nmse,
        "l0": last.l0,
    }  # fmt: skip


def _digests(shards: Mapping[str, list[Path]]) -> dict[str, list[str]]:
    return {stage: [read_manifest(path, SHARD)["digest"] for path in paths] for stage, paths in shards.items()}


def _history_csv(history: Sequence[EpochRecord]) -> str:
    """One line per epoch; its bytes depend on the records alone."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(EpochRecord._fields)
    table.writerows(history)
    return text.getvalue()
