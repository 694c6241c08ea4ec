"""Where the training of an SAE starts: its shape, its updates, its random streams, fresh or warm tensors."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from sae_core.config import SAEConfig, TrainingConfig
from sae_core.models.topk import TopKSAE, initial
from workflow.config.saes import SaeSettings
from workflow.config.section import ConfigError
from workflow.formats.activations import RowFilter, ShuffledBatches, Store
from workflow.formats.saes import ACTIVATION, read_sae

FIRST_ROWS = 8192
"""Rows, drawn at random, whose mean and size start a fresh SAE."""


class Place(NamedTuple):
    """Which SAE it is."""

    run: str
    text: str
    kind: str
    chain: str
    seed: int
    stage: str
    layer: int
    hop: int
    part: str
    source_stage: str


class Start(NamedTuple):
    """An SAE before its first update."""

    sae: TopKSAE
    reinitialised: Tensor
    """[d_sae]: latents re-initialised since `base`."""
    parent: str | None
    """Digest of the SAE whose tensors these are; None for fresh ones."""


def stream(place: Place, purpose: str) -> int:
    """Seed of one random stream: it depends on seed, layer and hop alone, so that all chains share it."""
    name = f"{place.seed}/{place.layer}/{place.hop}/{purpose}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big")


def sae_config(settings: SaeSettings, kind: str, d_model: int) -> SAEConfig:
    """Shape of the SAE.

    Raises:
        ConfigError: k is larger than d_sae.
    """
    d_sae = settings.expansion * d_model
    if settings.k > d_sae:
        raise ConfigError(
            f"saes.k must be at most d_sae = {d_sae} (expansion {settings.expansion} × d_model {d_model}); got {settings.k}. "
            "Lower saes.k or raise saes.expansion."
        )
    return SAEConfig(d_model, d_sae, settings.k, ACTIVATION[kind])


def training_config(settings: SaeSettings, place: Place, rows: int) -> TrainingConfig:
    """Length and speed of the training.

    Args:
        rows: training rows by position alone: paired stores have equally many, whatever their norms, and train equally long.

    Raises:
        ConfigError: the warm-up is as long as the training.
    """
    per_epoch = max(1, rows // settings.batch)
    updates = settings.epochs * per_epoch
    if settings.warmup_updates >= updates:
        raise ConfigError(
            f"saes.warmup_updates must be below the updates of a hop, {updates} (epochs {settings.epochs} × {per_epoch}); "
            f"got {settings.warmup_updates}. Lower it, raise saes.epochs or activations.prompts_per_hop."
        )
    return TrainingConfig(
        lr=settings.lr, updates=updates, updates_per_epoch=per_epoch, batch=settings.batch, lr_floor=settings.lr_floor,
        warmup_updates=settings.warmup_updates, grad_clip=settings.grad_clip, aux_coef=settings.aux_coef,
        aux_k=settings.aux_k_multiple * settings.k, aux_target=settings.aux_target, dead_rate=settings.dead_rate,
        resample_epochs=settings.resample_epochs, seed=stream(place, "resampling"),
    )  # fmt: skip


def rows_by_position(manifests: list[Path], keep: RowFilter) -> int:
    """Training rows past the skipped positions, whatever their norm."""
    return len(Store(manifests, keep._replace(max_norm_multiple=float("inf")), {"train"}))


def starting_point(
    warm: Path | str | None, config: SAEConfig, settings: SaeSettings, place: Place, store: Store, device: torch.device
) -> Start:
    """The previous stage's SAE with all its tensors, or a fresh one on the rows of `store`.

    Raises:
        ConfigError: the previous SAE has another shape, or was trained on other vectors.
    """
    if warm is not None:
        before = read_sae(warm)
        _must_fit(warm, before.facts, config, place, store.hook_point)
        sae = TopKSAE(config, before.model.tensors()).to(device)
        return Start(sae, before.extras["reinitialised"], before.facts["digest"])
    batch = min(len(store), FIRST_ROWS)
    rows = next(ShuffledBatches(store, batch, settings.buffer_rows, stream(place, "first rows")).batches())
    sae = initial(config, rows, stream(place, "directions"), settings.normalise).to(device)
    return Start(sae, torch.zeros(config.d_sae, dtype=torch.bool), None)


def _must_fit(warm: Path | str, facts: dict, config: SAEConfig, place: Place, hook_point: str) -> None:
    wanted = {
        "d_model": config.d_model, "d_sae": config.d_sae, "k": config.k, "kind": place.kind, "seed": place.seed,
        "layer": place.layer, "hook_point": hook_point,
    }  # fmt: skip
    for name, value in wanted.items():
        if facts[name] != value:
            raise ConfigError(
                f"A warm start must have the same {name} as the SAE that starts from it, {value}; {warm} has {facts[name]}. "
                f"Keep {name} fixed along a chain, or train the chain from base on again."
            )
