"""Dead latents are re-initialised from rows that the SAE reconstructs badly."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_core.models.topk import TopKSAE

SAMPLED_ROWS = 8192
"""Rows among which badly reconstructed ones are looked for."""


@torch.no_grad()
def resample_dead(
    sae: TopKSAE,
    optimiser: torch.optim.Adam,
    dead: Bool[Tensor, " d_sae"],
    rows: Float[Tensor, "row d_model"],
    seed: int,
) -> Int[Tensor, " latent"]:
    """Point dead latents at badly reconstructed rows, in place, and return their indices.

    Encoder and decoder row of a dead latent become one input of the top quartile of reconstruction error, scaled, centred and
    of norm 1; its encoder bias becomes 0 and its moments of Adam are set to 0. No input serves two latents: equal latents would
    stay equal for ever. If there are more dead latents than such inputs, the last ones wait for the next time.

    Args:
        dead: the dead latents.
        rows: inputs in original units, at most SAMPLED_ROWS are used.
        seed: seed of the draw.

    Source: OhhMoo SAE-RL, scripts/05_train_sae.py, which neither centres the input nor resets Adam.
    """
    directions = _badly_reconstructed(sae, rows[:SAMPLED_ROWS])
    order = torch.randperm(len(directions), generator=torch.Generator().manual_seed(seed)).to(directions.device)
    latents = dead.nonzero().squeeze(1)[: len(directions)]
    chosen = directions[order[: len(latents)]]
    for weights in (sae.W_enc, sae.W_dec):
        weights[latents] = chosen
    sae.b_enc[latents] = 0
    for parameter in (sae.W_enc, sae.W_dec, sae.b_enc):
        for moment in ("exp_avg", "exp_avg_sq"):
            if moment in optimiser.state[parameter]:
                optimiser.state[parameter][moment][latents] = 0
    return latents


def _badly_reconstructed(sae: TopKSAE, rows: Tensor) -> Tensor:
    """Unit directions of the distinct rows in the top quartile of error; sorted, so that their order is defined."""
    errors = torch.cat([(part - sae(part)).square().sum(1) for part in rows.split(1024)])
    worst = rows[errors >= errors.quantile(0.75)]
    centred = torch.unique(worst, dim=0) / sae.scale - sae.b_pre
    norms = torch.linalg.vector_norm(centred, dim=1, keepdim=True)
    return (centred / norms)[norms.squeeze(1) > 0]
