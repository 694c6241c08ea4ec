"""Dead latents are re-initialised: from what the SAE leaves over of rows, or as published, from rows it reconstructs badly."""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_core.config.training import TrainingConfig
from sae_core.models.sae import SAE
from sae_core.training.optimiser import Optimiser
from sae_core.training.parallel import Parallel
from sae_core.training.revival import NewLatents, find_latents
from sae_core.training.sharded import reconstruct

SAMPLED_ROWS = 8192
"""Rows, at most, that are looked at."""

QUIET = 0.2
"""Norm of a re-initialised encoder row, as a share of the mean norm of the living, with `squared_loss` (Bricken et al. 2023)."""


def due(update: int, config: TrainingConfig) -> bool:
    """Whether dead latents are re-initialised after this many updates; never after the last."""
    every = config.resample_updates or config.resample_epochs * config.updates_per_epoch or -(-config.resample_rows // config.batch)
    return every > 0 and update % every == 0 and 0 < update < config.updates


def updates_until_due(update: int, config: TrainingConfig) -> int | None:
    """Updates from this many on to the next re-initialisation; None if there is none."""
    every = config.resample_updates or config.resample_epochs * config.updates_per_epoch or -(-config.resample_rows // config.batch)
    if not every:
        return None
    left = -update % every
    return left if update + left < config.updates else None


@torch.no_grad()
def resample_dead(
    sae: SAE,
    optimiser: Optimiser,
    dead: Bool[Tensor, " d_sae"],
    rows: Float[Tensor, "row d_model"],
    config: TrainingConfig,
    seed: int,
) -> Int[Tensor, " latent"]:
    """Give dead latents something to reconstruct, in place, and return the indices of those that were changed.

    `config.resample_from` names what. With `residual` a latent points at what the SAE leaves over of a row, and its bias is the one
    with which the error of all these rows falls most, see `find_latents`: it is never above that of the SAE without the dead. With
    the others, which are published recipes, encoder and decoder row both become one badly reconstructed row, centred and
    normalised, with a bias of 0: where rows are alike, many such latents fire together, and the sum of their codes may be many
    times the row.

    Decoder rows have norm 1, thresholds become those of the living at their median, and all moments of Adam of such a latent 0. No
    two latents are equal: they would stay so for ever. Where there are more dead latents than directions, the last ones stay as
    they were until the next time.

    Args:
        dead: the dead latents, of this SAE or part.
        rows: inputs in original units, the same for all processes; at most SAMPLED_ROWS are used.
        seed: seed of the draw.

    Source: OhhMoo SAE-RL, scripts/05_train_sae.py, which neither centres the input nor resets Adam, for `worst_quartile`; Bricken
    et al. 2023, appendix on neuron resampling, for `squared_loss`.
    """
    parallel, latents, rows = optimiser.parallel, dead.nonzero().squeeze(1), rows[:SAMPLED_ROWS]
    counts = parallel.latents.numbers(len(latents))
    before, count, least = sum(counts[: parallel.latents.index]), sum(counts), _least(sae, dead, parallel)
    if config.resample_from == "residual":
        found = _along_residuals(sae, latents, rows, count, least, seed, parallel)
    else:
        directions = _badly_reconstructed(sae, rows, config.resample_from, seed, parallel)[:count]
        living = parallel.latents.joined(torch.linalg.vector_norm(sae.W_enc[~dead], dim=1))
        size = QUIET * living.mean() if config.resample_from == "squared_loss" and len(living) else 1.0
        found = NewLatents(directions * size, directions.new_zeros(len(directions)), directions)
    # shards take theirs in the order of latents
    encoders, biases, decoders = (one[before : before + len(latents)] for one in found)
    latents = latents[: len(decoders)]
    sae.W_enc[latents], sae.W_dec[latents] = encoders, decoders
    for name in _vectors(sae):
        getattr(sae, name)[latents] = least if name == "threshold" else 0.0 if name == "r_mag" else biases
    optimiser.forget(latents)
    return latents


def _vectors(sae: SAE) -> list[str]:
    """Names of the tensors with a number for each latent."""
    return [name for name, shape in sae.own_shapes(sae.config).items() if shape == (sae.config.d_sae,)]


def _least(sae: SAE, dead: Tensor, parallel: Parallel) -> float:
    """What a code of a re-initialised latent must exceed to count; where latents compete for the places of a row, anything."""
    threshold = getattr(sae, "threshold", None)
    if threshold is None:
        return 0.0
    living = threshold if threshold.ndim == 0 else parallel.latents.joined(threshold[~dead])
    return max(0.0, float(living.median())) if living.numel() else 0.0


def _along_residuals(
    sae: SAE, latents: Tensor, rows: Tensor, count: int, least: float, seed: int, parallel: Parallel
) -> NewLatents:
    """What lowers the error of an SAE on which these latents never fire; they are left as they were."""
    before = {name: getattr(sae, name)[latents] for name in ("W_enc", *_vectors(sae))}
    for name in before:
        getattr(sae, name)[latents] = 0.0
    found = find_latents(sae, rows, count, least, seed, parallel)
    for name, values in before.items():
        getattr(sae, name)[latents] = values
    return found


def _badly_reconstructed(
    sae: SAE, rows: Tensor, rule: Literal["worst_quartile", "squared_loss"], seed: int, parallel: Parallel
) -> Float[Tensor, "row d_model"]:
    """Unit directions of distinct badly reconstructed rows in the order of the draw."""
    draw = torch.Generator().manual_seed(seed)
    distinct = torch.unique(rows, dim=0)
    errors = torch.cat([(part - reconstruct(sae, part, parallel).rows).square().sum(1) for part in distinct.split(1024)])
    if rule == "worst_quartile":
        worst = distinct[errors >= errors.quantile(0.75)]
        order = torch.randperm(len(worst), generator=draw).to(rows.device)
        chosen = worst[order]
    else:
        price = errors.double().square().cpu()
        possible = int((price > 0).sum())
        picked = torch.multinomial(price, possible, generator=draw) if possible else torch.zeros(0, dtype=torch.int64)
        chosen = distinct[picked.to(rows.device)]
    centred = sae.centred(sae.normalised(chosen).rows)
    norms = torch.linalg.vector_norm(centred, dim=1, keepdim=True)
    return (centred / norms)[norms.squeeze(1) > 0]
