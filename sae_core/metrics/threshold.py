"""Codes of TopK SAEs under one threshold instead of k latents per row.

TopK is compositional: k is fixed, so a latent that fires more makes others fire less on the same rows. Under a threshold every
latent fires by itself, and a change of its rate needs no other.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.kernels.codes import Codes
from sae_core.kernels.selection import above
from sae_core.models.topk import TopKSAE

BLOCK_ROWS = 512
"""Rows whose scores are compared at a time."""


def matched_threshold(sae: TopKSAE, x: Float[Tensor, "row d_model"]) -> Float[Tensor, ""]:
    """The threshold above which as many scores lie on these rows as the SAE's own rule leaves active; not below 0.

    Source: the threshold of BatchTopK SAEs (Bussmann et al. 2024), here of the rows as one batch.
    """
    blocks = x.split(BLOCK_ROWS)
    active = sum(int(sae.encode(block).active_per_row().sum()) for block in blocks)
    largest = x.new_empty(0)
    for block in blocks:
        together = torch.cat([largest, _ranks(sae, block).flatten()])
        largest = together.topk(min(active + 1, len(together)), sorted=False).values
    return largest.min().clamp_min(0)


def threshold_codes(sae: TopKSAE, x: Float[Tensor, "batch d_model"], threshold: Float[Tensor, ""]) -> Codes:
    """Codes of rows in original units: f = z where z > threshold, with `keep` = absolute where |z| > threshold."""
    scores = _scores(sae, x)
    if sae.config.keep != "absolute":
        return above(scores, threshold)
    codes = above(scores.abs(), threshold)
    return codes._replace(values=scores[codes.rows(), codes.latents])


def _scores(sae: TopKSAE, x: Tensor) -> Tensor:
    return sae.scores(sae.centred(sae.normalised(x).rows))


def _ranks(sae: TopKSAE, x: Tensor) -> Tensor:
    scores = _scores(sae, x)
    return scores.abs() if sae.config.keep == "absolute" else scores
