"""Training of SAEs from stores to files; killed at any moment, it goes on and gives the same bytes."""

import functools
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sae_core.config.sae import SAEConfig
from sae_core.kernels.backend import Backend
from sae_core.kernels.choice import BackendName
from sae_core.training.grouped import GroupedTrainer
from sae_core.training.records import Diverged, EpochRecord, Trained
from sae_core.training.trainer import Trainer
from workflow.backends import open_backend
from workflow.config.sae_settings import SaeSettings
from workflow.config.section import ConfigError
from workflow.devices import choose_device
from workflow.formats.activations import RowFilter, ShuffledBatches, Store, damage_set_aside
from workflow.formats.files import remove_scratch, replacing, scratch_folder
from workflow.formats.saes import write_plain
from workflow.progress import Progress
from workflow.saes.held_out import HeldOutRows
from workflow.saes.publishing import Files, publish_sae
from workflow.saes.starting import (
    Place,
    Start,
    first_rows,
    rows_by_position,
    sae_config,
    starting_point,
    stream,
    training_config,
    updates_of,
)

__all__ = ["Member", "Place", "train_sae", "train_saes"]

log = logging.getLogger(__name__)
SECONDS_BETWEEN_SAVES = 120.0


class Member(NamedTuple):
    """One SAE of a job."""

    place: Place
    settings: SaeSettings
    warm: Path | str | None
    """Manifest of the SAE to start from; None for a fresh one."""
    files: Files
    budget: Sequence[Path | str] = ()
    """Manifests of the SAEs whose updates together it is given, in the place of `settings.epochs`."""

    @property
    def rows(self) -> str:
        """Name of its stream of rows: members that draw alike share it."""
        return f"{self.settings.batch} of {self.settings.buffer_rows}"


class Rows(NamedTuple):
    """What the SAEs of a job read."""

    train: Store
    held_out: HeldOutRows
    by_position: int
    """Training rows, whatever their norm."""


def train_sae(
    *, train_manifests: Sequence[Path | str], val_manifests: Sequence[Path | str], warm: Path | str | None, sae: Path | str,
    history: Path | str, manifest: Path | str, place: Place, settings: SaeSettings, keep: RowFilter, device: str, key: str,
    backend: BackendName = "auto", save_seconds: float = SECONDS_BETWEEN_SAVES, budget: Sequence[Path | str] = (),
) -> dict[str, Any]:  # fmt: skip
    """Train one SAE; see `train_saes`.

    Args:
        train_manifests: shards whose rows of the split `train` are trained on.
        val_manifests: shards whose rows of the split `val` choose the epoch.
        warm: manifest of the SAE to start from; None for a fresh one.
        sae: sae.safetensors.
        history: history.csv.
        manifest: manifest.json.
        place: which SAE it is.
        settings: what it is trained with.
        keep: the row filter.
        device: `auto`, `cpu` or `cuda`.
        key: digest of everything that the result depends on.
        backend: `auto`, `torch`, `native` or `triton`.
        save_seconds: time between two states from which a killed training goes on.
        budget: manifests of the SAEs whose updates together it is given; none for `settings.epochs`.
    """
    member = Member(place, settings, warm, Files(Path(sae), Path(history), Path(manifest)), budget)
    facts = train_saes(
        members=[member], train_manifests=train_manifests, val_manifests=val_manifests, keep=keep, device=device, key=key,
        backend=backend, save_seconds=save_seconds,
    )  # fmt: skip
    return facts | {name: facts[name][place.kind] for name in ("best_epoch", "epochs")}


def train_saes(
    *, members: Sequence[Member], train_manifests: Sequence[Path | str], val_manifests: Sequence[Path | str], keep: RowFilter,
    device: str, key: str, backend: BackendName = "auto", save_seconds: float = SECONDS_BETWEEN_SAVES,
) -> dict[str, Any]:  # fmt: skip
    """Train the SAEs of one cell, each kind once, on one reading of the rows; write their files, return facts for the provenance.

    Each SAE gets the bytes that it gets when it is trained alone.

    Raises:
        ConfigError: settings, stores and warm start do not fit each other, a training diverged, or a shard is damaged; that
            shard is then set aside, so that the next run builds it anew.
    """
    where = choose_device(device)
    engine = open_backend(backend, where)
    with damage_set_aside():
        rows = _open(train_manifests, val_manifests, keep, members)
        configs = [sae_config(member.settings, member.place.kind, rows.train.d_model) for member in members]
        starts = list(_starts(members, configs, rows, where))
        group, scratch = _group(members, starts, rows, engine), scratch_folder(members[0].files.sae, key)
        resumed = _resume(group, scratch)
        trained = _run(group, members, rows, scratch, save_seconds)
    for member, config, start in zip(members, configs, starts, strict=True):
        kind = member.place.kind
        publish_sae(
            member.files, member.place, config, trained[kind], group.members[kind], hook_point=rows.train.hook_point,
            parent=start.parent, row_filter=keep._asdict(), rows=len(rows.train), held_out_rows=len(rows.held_out.store),
            dropped_share=rows.train.dropped_share,
        )  # fmt: skip
    remove_scratch(scratch)
    return {
        "device": str(where), "backend": engine.name, "backend_detail": engine.detail, "resumed_at_update": resumed,
        "best_epoch": {kind: one.epoch for kind, one in trained.items()},
        "epochs": {kind: len(trainer.history) for kind, trainer in group.members.items()},
    }  # fmt: skip


def _open(
    train_manifests: Sequence[Path | str], val_manifests: Sequence[Path | str], keep: RowFilter, members: Sequence[Member]
) -> Rows:
    train, held_out = Store(train_manifests, keep, {"train"}), HeldOutRows(Store(val_manifests, keep, {"val"}))
    for member in members:
        _must_match(train, held_out.store, member.place)
    return Rows(train, held_out, rows_by_position([Path(path) for path in train_manifests], keep))


def _starts(members: Sequence[Member], configs: Sequence[SAEConfig], rows: Rows, device: torch.device) -> Iterator[Start]:
    read = functools.cache(lambda buffer_rows: first_rows(rows.train, buffer_rows, members[0].place))
    for (place, settings, warm, *_), config in zip(members, configs, strict=True):
        first = functools.partial(read, settings.buffer_rows)
        yield starting_point(warm, config, settings, place, rows.train.hook_point, first, device)


def _group(members: Sequence[Member], starts: Sequence[Start], rows: Rows, backend: Backend) -> GroupedTrainer:
    assert len({stream(member.place, "rows") for member in members}) == 1, "one seed, layer and hop"
    trainers = {}
    for (place, settings, _, _, budget), start in zip(members, starts, strict=True):
        updates = updates_of(budget) if budget else None
        length = training_config(settings, place, rows.by_position, len(rows.train), updates)
        trainers[place.kind] = Trainer(start.sae, length, start.reinitialised, backend, start.moments)
    return GroupedTrainer(trainers, {member.place.kind: member.rows for member in members})


def _run(group: GroupedTrainer, members: Sequence[Member], rows: Rows, scratch: Path, save_seconds: float) -> dict[str, Trained]:
    total, saved = group.updates, time.monotonic()
    with Progress(total, "training SAE", "updates", done=group.update) as progress:

        def after_update(update: int) -> None:
            nonlocal saved
            progress.advance(note=_last_epochs(group))
            if update < total and time.monotonic() - saved >= save_seconds:
                with replacing(scratch / "trainer.pt") as temporary:
                    torch.save(group.state_dict(), temporary)
                saved = time.monotonic()

        try:
            return group.run(_batches(members, rows.train, group.update), rows.held_out.qualities, after_update, _log_epoch)
        except Diverged as error:
            trainer, good = group.members[error.member], scratch / f"last_good_{error.member}.safetensors"
            write_plain(good, trainer.sae.tensors())
            raise ConfigError(
                f"{error} (settings: saes.lr, saes.warmup_updates.) The tensors of that state, after update {trainer.update}, lie "
                f"in {good} until this SAE is trained with other settings."
            ) from error


def _batches(members: Sequence[Member], store: Store, start: int) -> dict[str, Iterator[Tensor]]:
    """The rows of each stream from the batch of update `start` on."""
    return {
        member.rows: ShuffledBatches(
            store, member.settings.batch, member.settings.buffer_rows, stream(member.place, "rows")
        ).batches(start)
        for member in members
    }


def _resume(group: GroupedTrainer, scratch: Path) -> int:
    """Go on from a saved state if there is one; the updates done by then."""
    state = scratch / "trainer.pt"
    if state.exists():
        device = next(iter(group.members.values())).device
        group.load_state_dict(torch.load(state, weights_only=True, map_location=device))
        log.info("going on after update %d of %d", group.update, group.updates)
    return group.update


def _last_epochs(group: GroupedTrainer) -> str:
    ended = {kind: trainer.history[-1] for kind, trainer in group.members.items() if trainer.history}
    return ", ".join(f"{kind} epoch {record.epoch}: nmse {record.nmse:.4f}" for kind, record in ended.items())


def _log_epoch(kind: str, record: EpochRecord) -> None:
    log.info(
        "%s epoch %d: train loss %.5g, held-out nmse %.5f, l0 %.1f, dead %.1f %%, %d latents re-initialised",
        kind, record.epoch, record.train_loss, record.nmse, record.l0, 100 * record.dead_share, record.resampled,
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
