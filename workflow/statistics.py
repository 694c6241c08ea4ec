"""Uncertainty by prompt: bootstrap replicates from per-prompt sums, and percentile intervals.

A statistic is any function of sums over prompts weighted by how often each prompt was drawn. Evaluated at weights of one it
is the point estimate, at the rows of `multiplicities` its replicates; two statistics evaluated at the same rows are paired.
Rows of one prompt are not independent, so nothing here resamples rows.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from workflow.config.section import ConfigError


class Interval(NamedTuple):
    """A two-sided interval."""

    low: float
    """Lower end."""
    high: float
    """Upper end."""

    def contains(self, value: float) -> bool:
        """Whether a value lies in the interval, its ends included."""
        return self.low <= value <= self.high


def multiplicities(n_prompts: int, replicates: int, seed: int) -> np.ndarray:
    """How often each prompt is drawn in each bootstrap replicate: int64 [replicates, n_prompts], every row sums to n_prompts.

    Same arguments, same draws: measurements over the same prompts in the same order are thereby paired.

    Raises:
        ConfigError: fewer than two prompts, whose spread cannot be estimated.
    """
    _at_least_two(n_prompts)
    draws = np.random.default_rng(seed).integers(n_prompts, size=(replicates, n_prompts))
    offsets = np.arange(replicates)[:, None] * n_prompts
    return np.bincount((draws + offsets).ravel(), minlength=replicates * n_prompts).reshape(replicates, n_prompts)


def interval(replicates: np.ndarray, confidence: float) -> Interval:
    """The percentile interval of a statistic's bootstrap replicates, of coverage `confidence`.

    Raises:
        ConfigError: a replicate is not finite: some resample left a ratio without a denominator.

    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, §13.3.
    """
    if not (finite := np.isfinite(replicates)).all():
        raise ConfigError(
            f"Every bootstrap replicate must be a finite number; {int((~finite).sum())} of {finite.size} are not: some "
            "resamples hold no variance. Measure on more prompts."
        )
    tail = (1 - confidence) / 2
    low, high = np.quantile(replicates, [tail, 1 - tail])
    return Interval(float(low), float(high))


def proportion(outcomes: Sequence[float] | np.ndarray, problems: Sequence[str] | np.ndarray) -> float:
    """The mean over problems of each problem's mean outcome, so that every problem counts once, however many traces it has."""
    return float(_problem_means(outcomes, problems).mean())


def proportion_interval(
    outcomes: Sequence[float] | np.ndarray, problems: Sequence[str] | np.ndarray, replicates: int, confidence: float, seed: int
) -> Interval:
    """The interval of `proportion` from a bootstrap over problems.

    Args:
        outcomes: one number per trace, for an accuracy 0 or 1.
        problems: the problem of each trace.
        replicates: bootstrap replicates.
        confidence: coverage.
        seed: seed of the bootstrap.

    Raises:
        ConfigError: fewer than two problems.
    """
    means = _problem_means(outcomes, problems)
    return interval(multiplicities(len(means), replicates, seed) @ means / len(means), confidence)


def _problem_means(outcomes: Sequence[float] | np.ndarray, problems: Sequence[str] | np.ndarray) -> np.ndarray:
    """Mean outcome per problem, float64, in the order of the problems' names."""
    values = np.asarray(outcomes, dtype=np.float64)
    names, index = np.unique(np.asarray(problems, dtype=str), return_inverse=True)
    if len(index) != len(values):
        raise ConfigError(
            f"Outcomes and problems must go together one by one; got {len(values)} outcomes and {len(index)} problems. "
            "Give the problem of each trace."
        )
    if not len(names):
        raise ConfigError("A proportion must be over at least one problem; got none. Solve some problems first.")
    return np.bincount(index, weights=values) / np.bincount(index)


def _at_least_two(n_prompts: int) -> None:
    if n_prompts < 2:
        raise ConfigError(
            f"A bootstrap over prompts must have at least 2 prompts; got {n_prompts}. "
            "Measure on more problems, for example with a larger weight of problems.splits.test."
        )
