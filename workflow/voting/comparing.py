"""Accuracies of schemes with intervals by group of problems, and tests of their difference to majority."""

from typing import NamedTuple

import numpy as np
from scipy import stats

from workflow.formats.drift_columns import Estimate
from workflow.sign_flips import difference_p
from workflow.statistics import interval, multiplicities


class Groups:
    """Groups of near-duplicate problems, which are resampled and flipped as one."""

    def __init__(self, groups: list[str], *, replicates: int, confidence: float, seed: int) -> None:
        """Draw the bootstrap.

        Args:
            groups: of each problem.
            replicates: bootstrap replicates.
            confidence: coverage of intervals.
            seed: seed of the bootstrap.

        Raises:
            ConfigError: fewer than two groups.
        """
        names, self._group = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
        self.count = len(names)
        self._drawn = multiplicities(self.count, replicates, seed).astype(np.float64)  # integers would be multiplied without BLAS
        self._problems = self._drawn @ np.bincount(self._group)
        self._confidence = confidence

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sums by group, float64 [group], of one value per problem."""
        return np.bincount(self._group, weights=values, minlength=self.count)

    def estimate(self, values: np.ndarray) -> Estimate:
        """The mean over problems; two means are paired, since they see the same draws."""
        low, high = interval(self._drawn @ self.sums(values) / self._problems, self._confidence)
        return Estimate(float(values.mean()), low, high)


def flip_p(groups: Groups, differences: list[np.ndarray], *, flips: int, seed: int) -> np.ndarray:
    """Two-sided p-values of the means of differences, one number per problem each, by sign flips of whole groups."""
    return difference_p(np.stack([groups.sums(each) for each in differences], axis=1), flips=flips, seed=seed)


class Flips(NamedTuple):
    """Two schemes on the same problems, one vote each."""

    right_right: int
    right_wrong: int
    wrong_right: int
    wrong_wrong: int
    mcnemar_p: float | None
    """None where nothing differs."""


def mcnemar(before: np.ndarray, after: np.ndarray) -> Flips:
    """Exact McNemar test of two schemes, bool [problem] each.

    Source: McNemar 1947, Psychometrika 12, 153-157, with the binomial distribution in the place of its approximation.
    """
    lost, won = int((before & ~after).sum()), int((~before & after).sum())
    p = float(stats.binomtest(lost, lost + won).pvalue) if lost + won else None
    return Flips(int((before & after).sum()), lost, won, int((~before & ~after).sum()), p)


def holm(p: np.ndarray) -> np.ndarray:
    """p-values adjusted for the number of tests, valid under any dependence between them.

    Source: Holm 1979, Scand. J. Statist. 6, 65-70.
    """
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(np.minimum(p[order] * np.arange(len(p), 0, -1), 1.0))
    adjusted = np.empty(len(p))
    adjusted[order] = stepped
    return adjusted


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """p-values adjusted for the share of false discoveries."""
    return np.asarray(stats.false_discovery_control(p)) if len(p) else p
