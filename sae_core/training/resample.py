"""Dead latents are re-initialised from rows that the SAE reconstructs badly."""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_core.config.training import TrainingConfig
from sae_core.models.sae import SAE
from sae_core.training.optimiser import Optimiser
from sae_core.training.parallel import Parallel
from sae_core.training.sharded import reconstruct

SAMPLED_ROWS = 8192
"""Rows among which badly reconstructed ones are looked for."""

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
    """Point dead latents at badly reconstructed rows, in place, and return their indices.

    The decoder row of a dead latent becomes one such row, normalised, centred and of norm 1; its encoder row the same, at the
    norm that `config.resample_from` names. Other parameters of the latent become 0, thresholds those of the living at their median,
    and all its moments of Adam 0. No row serves two latents: equal latents would stay equal for ever. If there are more dead
    latents than such rows, the last ones wait for the next time.

    Args:
        dead: the dead latents, of this SAE or part.
        rows: inputs in original units, the same for all processes; at most SAMPLED_ROWS are used.
        seed: seed of the draw.

    Source: OhhMoo SAE-RL, scripts/05_train_sae.py, which neither centres the input nor resets Adam; Bricken et al. 2023, appendix
    on neuron resampling.
    """
    parallel, latents = optimiser.parallel, dead.nonzero().squeeze(1)
    directions = _badly_reconstructed(sae, rows[:SAMPLED_ROWS], config.resample_from, seed, parallel)
    # shards take their directions in the order of latents
    before = sum(parallel.latents.numbers(len(latents))[: parallel.latents.index])
    chosen = directions[before : before + len(latents)]
    latents = latents[: len(chosen)]
    living = parallel.latents.joined(torch.linalg.vector_norm(sae.W_enc[~dead], dim=1))
    size = QUIET * living.mean() if config.resample_from == "squared_loss" and len(living) else 1.0
    sae.W_enc[latents] = chosen * size
    sae.W_dec[latents] = chosen
    for name, shape in sae.own_shapes(sae.config).items():
        if shape == (sae.config.d_sae,):
            tensor = getattr(sae, name)
            alive = parallel.latents.joined(tensor[~dead]) if name == "threshold" else tensor[:0]
            tensor[latents] = alive.median() if len(alive) else 0.0
    optimiser.forget(latents)
    return latents


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
