"""Which latents stand for which planted directions: the truth that lineages are checked against."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.planted.dictionary import StageTruth

RECOVERED = 0.7
"""Cosine from which a latent stands for a direction."""


class Recovery(NamedTuple):
    """Latents beside planted directions; where a direction is two, the nearer half counts."""

    direction: np.ndarray
    """[latent]: the alive direction with the largest cosine; −1 where none reaches RECOVERED."""
    cosine: np.ndarray
    """[latent]: that cosine."""
    recovered: np.ndarray
    """[direction], bool: whether it is alive and some latent stands for it."""


def recovery(W_dec: Float[Tensor, "d_sae d_model"], truth: StageTruth) -> Recovery:
    """The planted directions that latents stand for at one stage.

    Source: maximum cosine similarity with the true dictionary, Sharkey et al. 2022.
    """
    latents = torch.nn.functional.normalize(W_dec.detach().double(), dim=1).cpu().numpy()
    cosines = np.einsum("lm,dhm->ldh", latents, truth.vectors).max(2)
    cosines[:, ~truth.alive] = -1
    best = cosines.argmax(1)
    cosine = cosines.max(1)
    stands = cosine >= RECOVERED
    recovered = np.zeros(len(truth.rates), dtype=bool)
    recovered[best[stands]] = True
    return Recovery(np.where(stands, best, -1), cosine, recovered)
