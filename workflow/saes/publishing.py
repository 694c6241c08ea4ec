"""The files of one trained SAE."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sae_core.config.sae import SAEConfig
from sae_core.training.records import EpochRecord, Trained
from sae_core.training.trainer import Trainer
from workflow.formats.files import write_text
from workflow.formats.saes import write_sae, write_sae_manifest
from workflow.saes.starting import Place


class Files(NamedTuple):
    """Where an SAE is written."""

    sae: Path
    history: Path
    manifest: Path


def publish_sae(files: Files, place: Place, config: SAEConfig, trained: Trained, trainer: Trainer, **facts: Any) -> None:
    """Write the SAE, its history and, last, its manifest.

    Args:
        files: where.
        place: which SAE it is.
        config: its shape and conventions.
        trained: what the training left.
        trainer: the training behind it.
        facts: what the manifest says of its rows and its parent.
    """
    digest = write_sae(files.sae, trained)
    write_text(files.history, history_csv(trainer.history))
    best = trainer.history[trained.epoch - 1]
    write_sae_manifest(
        files.manifest, config, **place._asdict(), **facts, digest=digest, updates=trainer.update, best_epoch=best.epoch,
        nmse=best.nmse, l0=best.l0, dead_share=best.dead_share,
    )  # fmt: skip


def history_csv(history: Sequence[EpochRecord]) -> str:
    """One line per epoch; its bytes depend on the records alone."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(EpochRecord._fields)
    table.writerows(history)
    return text.getvalue()
