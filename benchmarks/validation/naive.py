"""What would be claimed without a null chain and without prompts: measures as they are usually reported, here to be refuted.

Nothing of this is offered by the workflow.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.validation.tables import CONFIDENCE, drift_sums
from sae_core.models.sae import SAE
from sae_core.planted.chains import NULL, REAL, Name, PlantedSAE
from sae_core.planted.measuring import HELD_OUT, measure
from sae_core.planted.world import PlantedWorld
from workflow.drift.estimates import Measurement

CHANGED = 0.9
"""Latents whose decoder has less than this cosine with that of the same index at base are often called changed."""
ROW_REPLICATES = 500
DISCOVERY_RATE = 0.05


class IndexAligned(NamedTuple):
    """Cosines of decoders by index, real and null."""

    real: float
    """Mean 1 − cosine with base."""
    null: float
    changed: float
    """Share of latents called changed."""


def index_aligned(saes: Mapping[Name, PlantedSAE], stage: int) -> IndexAligned:
    """How far decoders turned since base, latent by latent."""
    base = saes[Name(REAL, 0)].model.W_dec.detach()
    cosines = {
        chain: torch.nn.functional.cosine_similarity(saes[Name(chain, stage)].model.W_dec.detach(), base) for chain in (REAL, NULL)
    }
    real, null = (float(1 - cosines[chain].mean()) for chain in (REAL, NULL))
    return IndexAligned(real, null, float((cosines[REAL] < CHANGED).double().mean()))


def row_intervals(world: PlantedWorld, saes: Mapping[Name, PlantedSAE], stage: int) -> dict[str, tuple[float, float]]:
    """Intervals of a bootstrap over rows, as if no two belonged to one prompt."""
    by_row = drift_sums(world, measure(world, saes, by_row=True), seed=0)
    measured = Measurement(by_row, ROW_REPLICATES, CONFIDENCE, seed=0)
    terms = measured.terms(by_row.stages[stage], "dropped")._asdict()
    estimates = {name: measured.estimate(statistic) for name, statistic in terms.items() if statistic is not None}
    return {name: (estimate.low, estimate.high) for name, estimate in estimates.items()}


def row_level_firing_discoveries(world: PlantedWorld, base: SAE, stage: int) -> int:
    """Latents of the frozen base SAE whose firing rate "changed" by a test of two proportions over rows, at a rate of 5 %.

    Source: the pooled z-test of two proportions, with the step-up procedure of Benjamini and Hochberg 1995.
    """
    counts, n = [], 0
    for one in (0, stage):
        x = world.rows(HELD_OUT, one).x
        counts.append(_fired(base, x))
        n = len(x)
    first, second = counts
    pooled = (first + second) / (2 * n)
    spread = np.sqrt(2 * pooled * (1 - pooled) / n)
    z = np.divide(second - first, n * spread, out=np.zeros_like(spread), where=spread > 0)
    p = 2 * torch.special.ndtr(-torch.from_numpy(np.abs(z))).numpy()
    return discoveries(p, DISCOVERY_RATE)


def discoveries(p: np.ndarray, rate: float) -> int:
    """Rejections of Benjamini and Hochberg's procedure."""
    below = np.sort(p) <= rate * np.arange(1, len(p) + 1) / len(p)
    return int(below.nonzero()[0].max() + 1) if below.any() else 0


@torch.no_grad()
def _fired(sae: SAE, x: Tensor) -> np.ndarray:
    active = sae.encode(x).active()
    return torch.bincount(active.latents, minlength=sae.config.d_sae).double().numpy()
