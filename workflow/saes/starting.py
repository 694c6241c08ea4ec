"""Where the training of an SAE starts: its shape, its updates, its random streams, fresh or warm tensors."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sae_core.config.sae import SAEConfig
from sae_core.config.training import TrainingConfig
from sae_core.models.build import initial
from sae_core.models.sae import SAE
from sae_core.training.records import Moments
from workflow.config.sae_checks import check_shape, latents_of
from workflow.config.sae_settings import PRICED, SaeSettings
from workflow.config.section import ConfigError
from workflow.formats.activations import RowFilter, ShuffledBatches, Store
from workflow.formats.manifest import read_manifest
from workflow.formats.saes import ARTEFACT, StoredSae, config_of, facts_of, read_sae
from workflow.seeds import named_seed

FIRST_ROWS = 8192
"""Rows, drawn at random, whose mean and size start a fresh SAE."""
AS_THEY_ARE = (
    "lr", "beta1", "beta2", "eps", "batch", "schedule", "lr_floor", "warmup_updates", "restart_updates", "grad_clip", "precision",
    "project_decoder", "aux_coef", "aux_target", "sparsity_coef", "sparsity_warmup_updates", "target_l0", "bandwidth",
    "threshold_lr_multiple", "threshold_rate",
    "dead_rate", "resample_epochs", "resample_updates", "resample_rows", "resample_from", "patience",
)  # fmt: skip
"""Settings that the core knows by the same name."""


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

    sae: SAE
    reinitialised: Tensor
    """[d_sae]: latents re-initialised since `base`; all of an SAE that starts fresh behind it."""
    parent: str | None
    """Digest of the SAE whose tensors these are; None for fresh ones."""
    moments: Moments | None
    """Adam's, from which training goes on; None for fresh ones."""


def stream(place: Place, purpose: str) -> int:
    """Seed of one random stream: it depends on seed, layer and hop alone, so that all chains and kinds share it.

    But for `repeat`, which goes on from an SAE on that SAE's own rows: in the same order they would be no second draw of the
    training, and what it shows would be too small.
    """
    again = "/repeat" if place.chain == "repeat" else ""
    return named_seed(f"{place.seed}/{place.layer}/{place.hop}{again}/{purpose}")


def sae_config(settings: SaeSettings, kind: str, d_model: int) -> SAEConfig:
    """Shape and conventions of the SAE.

    Raises:
        ConfigError: k or a width does not go into d_sae.
    """
    try:
        check_shape(kind, settings, d_model)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    d_sae = settings.expansion * d_model
    normalise = settings.normalise if settings.normalise in ("row_norm", "layer_norm") else "scale"
    return config_of(
        kind, d_model, d_sae, k=settings.k, widths=latents_of(settings.widths, d_sae), pre_bias=settings.pre_bias,
        normalise=normalise,
    )  # fmt: skip


def training_config(settings: SaeSettings, place: Place, rows: int, kept: int, budget: int | None = None) -> TrainingConfig:
    """Length and speed of the training.

    Args:
        rows: training rows by position alone: paired stores have equally many, whatever their norms, and train equally long.
        kept: those of them whose norm passes, too.
        budget: updates to be done, to the nearest whole epoch; None for `settings.epochs`.

    Raises:
        ConfigError: there are fewer rows than a batch, or the warm-up is as long as the training.
    """
    if kept < settings.batch:
        raise ConfigError(
            f"saes.batch must be at most the rows that a hop trains on, {kept} in part {place.part} of {place.source_stage} (text "
            f"{place.text}, layer {place.layer}); got {settings.batch}. Lower saes.batch or raise activations.prompts_per_hop."
        )
    per_epoch = rows // settings.batch
    epochs = settings.epochs if budget is None else max(1, round(budget / per_epoch))
    updates = epochs * per_epoch
    if settings.warmup_updates >= updates:
        raise ConfigError(
            f"saes.warmup_updates must be below the updates of a hop, {updates} (epochs {epochs} × {per_epoch}); "
            f"got {settings.warmup_updates}. Lower it, raise saes.epochs or activations.prompts_per_hop."
        )
    return TrainingConfig(
        **{name: getattr(settings, name) for name in AS_THEY_ARE}, updates=updates, updates_per_epoch=per_epoch,
        aux_k=settings.aux_k_multiple * settings.k, keep_epoch="last" if place.kind in PRICED else "best",
        keep_moments=settings.warm_moments, seed=stream(place, "resampling"),
    )  # fmt: skip


def updates_of(manifests: Sequence[Path | str]) -> int:
    """Updates that the SAEs of these manifests have had together."""
    return sum(read_manifest(path, ARTEFACT)["updates"] for path in manifests)


def rows_by_position(manifests: list[Path], keep: RowFilter) -> int:
    """Training rows past the skipped positions, whatever their norm."""
    return len(Store(manifests, keep._replace(max_norm_multiple=float("inf")), {"train"}))


def first_rows(store: Store, buffer_rows: int, place: Place) -> Tensor:
    """The rows that start a fresh SAE."""
    batch = min(len(store), FIRST_ROWS)
    return next(ShuffledBatches(store, batch, buffer_rows, stream(place, "first rows")).batches())


def starting_point(
    warm: Path | str | None, config: SAEConfig, settings: SaeSettings, place: Place, hook_point: str, first: Callable[[], Tensor],
    device: torch.device,
) -> Start:  # fmt: skip
    """The previous stage's SAE with all its tensors, or a fresh one.

    Args:
        warm: manifest of the previous stage's SAE.
        config: what the SAE must be.
        settings: its settings.
        place: which SAE it is.
        hook_point: what the rows are.
        first: gives the rows that start a fresh SAE.
        device: where it is trained.

    Raises:
        ConfigError: the previous SAE is of another kind or shape, was trained on other vectors, or lacks moments.
    """
    if warm is not None:
        before = read_sae(warm)
        _must_fit(warm, before, config, settings, place, hook_point)
        moments = before.moments if settings.warm_moments else None
        # what happened in the training of base, from which a chain begins, does not count as happened since base
        marked = before.extras["reinitialised"]
        marked = torch.zeros_like(marked) if before.facts["parent"] is None else marked
        return Start(before.model.to(device), marked, before.facts["digest"], moments)
    by_number = "none" if settings.normalise == "none" else "rms"
    sae = initial(config, first(), stream(place, "directions"), by_number, settings.initial_threshold).to(device)
    # behind base a fresh latent has nothing but its index in common with the latent of base
    return Start(sae, torch.full((config.d_sae,), place.hop > 0), None, None)


def _must_fit(warm: Path | str, before: StoredSae, config: SAEConfig, settings: SaeSettings, place: Place, hook_point: str) -> None:
    wanted: dict[str, Any] = {"kind": place.kind, **facts_of(config), "seed": place.seed, "layer": place.layer}
    found = before.facts
    if settings.normalise == "none":
        wanted, found = wanted | {"scale": 1.0}, found | {"scale": float(before.model.scale)}
    for name, value in (wanted | {"hook_point": hook_point}).items():
        if found[name] != value:
            raise ConfigError(
                f"A warm start must have the same {name} as the SAE that starts from it, {value}; {warm} has {found[name]}. "
                f"Keep {name} fixed along a chain, or train the chain from base on again."
            )
    if settings.warm_moments and before.moments is None:
        raise ConfigError(
            f"saes.warm_moments needs the moments of the SAE that is started from; {warm} stands beside a file without. "
            "Train the chain from base on again with it, or set saes.warm_moments to false."
        )
