"""Reconstruction errors of one measurement at the point and in every bootstrap replicate, and what follows from them.

Every statistic is a vector: its first entry is the point (each prompt counts once), the others its replicates, the same prompts
drawn for all. Differences of such vectors are therefore paired by prompt.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sae_core.metrics.reconstruction import mean_squared_error, variance
from workflow.formats.drift import BASE, NULL, REAL, DriftSums, Pair
from workflow.formats.drift_columns import Estimate
from workflow.statistics import interval, multiplicities

ROOT = Pair(REAL, BASE, BASE)
"""S_0 on X_0."""


class Terms(NamedTuple):
    """The parts of the change of a chain's error at one stage; see `drift_columns.Decomposition`."""

    delta: Tensor
    shift: Tensor
    refit: Tensor
    null_refit: Tensor | None
    adaptation: Tensor | None
    contrast: Tensor | None


class Measurement:
    """One measurement with its bootstrap; denominators are computed once per store."""

    def __init__(self, sums: DriftSums, replicates: int, confidence: float, seed: int) -> None:
        """Draw the prompts.

        Raises:
            ConfigError: fewer than two prompts.
        """
        self.sums, self.confidence = sums, confidence
        prompts = len(sums.manifest["problems"])
        drawn = multiplicities(prompts, replicates, seed)
        self._weights = torch.from_numpy(np.vstack([np.ones((1, prompts), drawn.dtype), drawn])).double()
        self._variances: dict[tuple[str, str], Tensor] = {}

    def nmse(self, pair: Pair, sinks: str, anchored: bool = False) -> Tensor:
        """Σ‖x−x̂‖²/n of a pair over the variance of its store, or anchored over that of base; [1 + replicates].

        Source: the fraction of variance unexplained; with its own variance it is `sae_core.metrics.reconstruction.nmse`.
        """
        error = mean_squared_error(self.sums.of(pair, sinks), self._weights)
        return error / self._variance(BASE if anchored else pair.store_stage, sinks)

    def _variance(self, stage: str, sinks: str) -> Tensor:
        if (stage, sinks) not in self._variances:
            self._variances[stage, sinks] = variance(self.sums.of(Pair(REAL, stage, stage), sinks), self._weights)
        return self._variances[stage, sinks]

    def estimate(self, statistic: Tensor) -> Estimate:
        """Point and percentile interval of a statistic.

        Raises:
            ConfigError: a replicate is not finite.
        """
        return estimate(statistic, self.confidence)

    def terms(self, stage: str, sinks: str, anchored: bool = False) -> Terms:
        """Decomposition of N[t,t] − N[0,0] at a stage behind base.

        delta = shift + refit = shift + null_refit + adaptation, each an identity in every replicate.
        """
        root, frozen, own = (self.nmse(pair, sinks, anchored) for pair in (ROOT, Pair(REAL, BASE, stage), Pair(REAL, stage, stage)))
        refit, null_refit, adaptation, contrast = own - frozen, None, None, None
        if NULL in self.sums.manifest["chains"]:
            null_refit = self.nmse(Pair(NULL, stage, BASE), sinks, anchored) - root
            adaptation = refit - null_refit
            contrast = own - self.nmse(Pair(NULL, stage, stage), sinks, anchored)
        return Terms(own - root, frozen - root, refit, null_refit, adaptation, contrast)


def estimate(statistic: Tensor, confidence: float) -> Estimate:
    """Point and percentile interval of a statistic, [1 + replicates].

    Raises:
        ConfigError: a replicate is not finite.
    """
    return Estimate(float(statistic[0]), *interval(statistic[1:].numpy(), confidence))
