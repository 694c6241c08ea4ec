"""Reconstruction errors of one measurement at the point and in every bootstrap replicate, and what follows from them.

Every statistic is a vector: its first entry is the point (each prompt counts once), the others its replicates, the same prompts
drawn for all. Differences of such vectors are therefore paired by prompt.
"""

import functools
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sae_core.metrics.reconstruction import mean_l0, mean_squared_error, variance
from workflow.formats.drift import BASE, COLD, NULL, REAL, REPEAT, DriftSums, Pair, own_pair
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
    repeat_floor: Tensor | None
    repeat_shift_floor: Tensor | None
    cold_gap: Tensor | None


class Measurement:
    """One measurement with its bootstrap; denominators are computed once per store."""

    def __init__(self, sums: DriftSums, replicates: int, confidence: float, seed: int, max_l0_ratio: float = float("inf")) -> None:
        """Draw the prompts.

        Args:
            sums: the measurement.
            replicates: bootstrap replicates.
            confidence: coverage of intervals.
            seed: of the bootstrap.
            max_l0_ratio: factor in l0 above which a control chain is not compared with `real`.

        Raises:
            ConfigError: fewer than two prompts.
        """
        self.sums, self.confidence, self.max_l0_ratio = sums, confidence, max_l0_ratio
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

        delta = shift + refit = shift + null_refit + adaptation, each an identity in every replicate. What a chain would tell that
        is missing or not comparable is None.
        """
        at = functools.partial(self.nmse, sinks=sinks, anchored=anchored)
        root, frozen, own = (at(pair) for pair in (ROOT, Pair(REAL, BASE, stage), Pair(REAL, stage, stage)))
        refit, null_refit, adaptation, contrast, floor, shift_floor, gap = own - frozen, *[None] * 6
        told = [chain for chain in self.sums.manifest["chains"] if chain not in self.not_comparable(stage, sinks)]
        if NULL in told:
            null_refit = at(Pair(NULL, stage, BASE)) - root
            adaptation = refit - null_refit
            contrast = own - at(Pair(NULL, stage, stage))
        if REPEAT in told:
            again = at(Pair(REPEAT, stage, stage)) - own
            floor = again.abs()
            shift_floor = (again - at(Pair(REPEAT, stage, BASE)) + at(Pair(REAL, stage, BASE))).abs()
        if COLD in told:
            gap = at(Pair(COLD, stage, stage)) - own
        return Terms(own - root, frozen - root, refit, null_refit, adaptation, contrast, floor, shift_floor, gap)

    def not_comparable(self, stage: str, sinks: str) -> dict[str, str]:
        """Why control chains tell nothing beside `real` at a stage, by chain: of two SAEs the one with more active latents
        reconstructs better whatever its rows, so a difference between them is not one of rows or history.
        """
        chains = {chain: float(mean_l0(self.sums.of(own_pair(chain, stage), sinks))) for chain in self.sums.manifest["chains"]}
        reasons = {}
        for chain, l0 in chains.items():
            low, high = sorted((l0, chains[REAL]))
            if high > self.max_l0_ratio * low:
                reasons[chain] = (
                    f"l0 is {l0:.1f} in the chain {chain} and {chains[REAL]:.1f} in real, beyond the factor {self.max_l0_ratio:g}"
                )
        return reasons


def estimate(statistic: Tensor, confidence: float) -> Estimate:
    """Point and percentile interval of a statistic, [1 + replicates].

    Raises:
        ConfigError: a replicate is not finite.
    """
    return Estimate(float(statistic[0]), *interval(statistic[1:].numpy(), confidence))
