"""Training of one SAE from stores to files; killed at any moment, it goes on and gives the same bytes."""

import csv
import io
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sae_core.training.trainer import Diverged, EpochRecord, Trained, Trainer
from workflow.config.saes import SaeSettings
from workflow.config.section import ConfigError
from workflow.devices import choose_device
from workflow.formats.activations import RowFilter, ShuffledBatches, Store, damage_set_aside
from workflow.formats.files import remove_scratch, replacing, scratch_folder, write_text
from workflow.formats.saes import write_sae, write_sae_manifest
from workflow.progress import Progress
from workflow.saes.held_out import HeldOutRows
from workflow.saes.starting import Place, rows_by_position, sae_config, starting_point, stream, training_config

__all__ = ["Place", "train_sae"]

log = logging.getLogger(__name__)
SECONDS_BETWEEN_SAVES = 120.0


def train_sae(
    *,
    train_manifests: Sequence[Path | str],
    val_manifests: Sequence[Path | str],
    warm: Path | str | None,
    sae: Path | str,
    history: Path | str,
    manifest: Path | str,
    place: Place,
    settings: SaeSettings,
    keep: RowFilter,
    device: str,
    key: str,
    save_seconds: float = SECONDS_BETWEEN_SAVES,
) -> dict[str, Any]:
    """Train one SAE, write `sae`, `history` and `manifest`, and return facts for the provenance.

    Args:
        train_manifests: shards whose rows of the split `train` are trained on.
        val_manifests: shards whose rows of the split `val` choose the epoch.
        warm: manifest of the SAE to start from; None for a fresh one.
        key: digest of everything that the result depends on.
        save_seconds: time between two states from which a killed training goes on.

    Raises:
        ConfigError: settings, stores and warm start do not fit each other, the training diverged, or a shard is damaged; that
            shard is then set aside, so that the next run builds it anew.
    """
    where = choose_device(device)
    with damage_set_aside():
        store, held_out = Store(train_manifests, keep, {"train"}), HeldOutRows(Store(val_manifests, keep, {"val"}))
        _must_match(store, held_out.store, place)
        config = sae_config(settings, place.kind, store.d_model)
        length = training_config(settings, place, rows_by_position([Path(path) for path in train_manifests], keep))
        start = starting_point(warm, config, settings, place, store, where)
        trainer, scratch = Trainer(start.sae, length, start.reinitialised), scratch_folder(sae, key)
        resumed = _resume(trainer, scratch)
        batches = ShuffledBatches(store, settings.batch, settings.buffer_rows, stream(place, "rows"))
        trained = _run(trainer, batches, held_out, scratch, save_seconds)
    digest = write_sae(sae, trained.tensors, trained.firing_rate, trained.reinitialised)
    write_text(history, history_csv(trainer.history))
    best = trainer.history[trained.epoch - 1]
    write_sae_manifest(
        manifest, config, **place._asdict(), hook_point=store.hook_point, parent=start.parent, digest=digest,
        row_filter=keep._asdict(), rows=len(store), held_out_rows=len(held_out.store), dropped_share=store.dropped_share,
        updates=length.updates, best_epoch=best.epoch, nmse=best.nmse, l0=best.l0, dead_share=best.dead_share,
    )  # fmt: skip
    remove_scratch(scratch)
    return {"device": str(where), "resumed_at_update": resumed, "best_epoch": best.epoch, "epochs": length.epochs}


def history_csv(history: Sequence[EpochRecord]) -> str:
    """One line per epoch; its bytes depend on the records alone."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(EpochRecord._fields)
    table.writerows(history)
    return text.getvalue()


def _run(trainer: Trainer, batches: ShuffledBatches, held_out: HeldOutRows, scratch: Path, save_seconds: float) -> Trained:
    total, saved = trainer.config.updates, time.monotonic()
    with Progress(total, "training SAE", "updates", done=trainer.update) as progress:

        def after_update(update: int) -> None:
            nonlocal saved
            progress.advance(note=_last_epoch(trainer.history))
            if update < total and time.monotonic() - saved >= save_seconds:
                with replacing(scratch / "trainer.pt") as temporary:
                    torch.save(trainer.state_dict(), temporary)
                saved = time.monotonic()

        try:
            return trainer.run(batches.batches(trainer.update), held_out.quality, after_update, _log_epoch)
        except Diverged as error:
            raise ConfigError(f"{error} (settings: saes.lr, saes.warmup_updates)") from error


def _resume(trainer: Trainer, scratch: Path) -> int:
    """Go on from a saved state if there is one; the updates done by then."""
    state = scratch / "trainer.pt"
    if state.exists():
        trainer.load_state_dict(torch.load(state, weights_only=True, map_location=trainer.device))
        log.info("going on after update %d of %d", trainer.update, trainer.config.updates)
    return trainer.update


def _last_epoch(history: Sequence[EpochRecord]) -> str:
    return f"epoch {history[-1].epoch}: nmse {history[-1].nmse:.4f}" if history else ""


def _log_epoch(record: EpochRecord) -> None:
    log.info(
        "epoch %d: train loss %.5g, held-out nmse %.5f, l0 %.1f, dead %.1f %%, %d latents re-initialised",
        record.epoch, record.train_loss, record.nmse, record.l0, 100 * record.dead_share, record.resampled,
    )  # fmt: skip


def _must_match(train: Store, held_out: Store, place: Place) -> None:
    """Refuse stores of another layer than the SAE's, and held-out rows that are other vectors than the training rows."""
    for store, name in ((train, "training"), (held_out, "held-out")):
        found = (store.layer, store.d_model, store.hook_point)
        wanted = (place.layer, train.d_model, train.hook_point)
        if found != wanted:
            raise ConfigError(
                f"The {name} store of this SAE must have layer, width and hook point {wanted}; got {found}. "
                "Name the stores of one layer of one policy."
            )
