"""Uncertainty by prompt without replicates of large sums: groups of prompts left out in turn."""

from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from workflow.config.section import ConfigError
from workflow.statistics import Interval


class Groups(NamedTuple):
    """Prompts in groups, each a stretch of the rows as they are stored."""

    of_prompt: np.ndarray
    """int64 [prompt]: group of each prompt; −1 where it has no row that counts."""
    count: int
    """Groups."""

    def left_out(self) -> np.ndarray:
        """float64 [1 + group, prompt]: how often each prompt counts at the point (once) and with each group left out."""
        points = np.ones((1, len(self.of_prompt)))
        return np.vstack([points, (self.of_prompt != np.arange(self.count)[:, None]).astype(np.float64)])


def groups_of(prompt: np.ndarray, n_prompts: int, groups: int) -> Groups:
    """Groups of equally many prompts, or one more, in the order of their first rows.

    Args:
        prompt: prompt of every row that counts, in storage order.
        n_prompts: prompts in all.
        groups: how many; as many as there are prompts with rows at most.

    Raises:
        ConfigError: fewer than two prompts have rows, or the rows of a group do not stand together.
    """
    found, first = np.unique(prompt, return_index=True)
    if len(found) < 2:
        raise ConfigError(
            f"An interval by prompt must rest on at least 2 prompts; got {len(found)}. "
            "Measure on more problems, for example with a larger weight of problems.splits.test."
        )
    count = min(groups, len(found))
    of_prompt = np.full(n_prompts, -1, dtype=np.int64)
    of_prompt[found[np.argsort(first)]] = np.arange(len(found)) * count // len(found)
    if (np.diff(of_prompt[prompt]) < 0).any():
        raise ConfigError(
            "Rows of one problem must stand together in a store; here they do not. Extract the store again from traces in order."
        )
    return Groups(of_prompt, count)


def jackknife_interval(values: np.ndarray, confidence: float) -> Interval:
    """Symmetric interval of a smooth statistic from its values with each of G groups of prompts left out.

    θ ± t_{G−1} · √((G−1)/G · Σ(θ_(g) − θ̄)²), θ̄ the mean of the θ_(g). It knows nothing of the bounds of a statistic.

    Args:
        values: [1 + group]: θ with all prompts, then each θ_(g).
        confidence: coverage.

    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, §11.5 (the jackknife), here over groups; Kott 2001, The
    delete-a-group jackknife, J. Off. Stat. 17 (G − 1 degrees of freedom).
    """
    point, left_out = float(values[0]), np.asarray(values[1:], dtype=np.float64)
    groups = len(left_out)
    error = np.sqrt((groups - 1) / groups * np.square(left_out - left_out.mean()).sum())
    reach = float(stdtrit(groups - 1, (1 + confidence) / 2) * error)
    return Interval(point - reach, point + reach)
