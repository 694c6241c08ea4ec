"""The accuracy of every scheme on one pool, at every number of traces."""

from functools import cache
from typing import Literal, NamedTuple

import numpy as np

from workflow.voting.ballots import Subsets, best_accuracy, oracle_accuracy, subsets, vote_accuracy, winners
from workflow.voting.pool import Pool

Rule = Literal["vote", "best", "oracle"]
"""The largest total of weights wins; the trace of the largest weight answers; one right trace is enough."""


class Accuracy(NamedTuple):
    """Of one scheme at one k."""

    values: np.ndarray
    """float64 [problem], probability of a right answer."""
    how: str
    """See `Voted.how`."""
    subsets: int | None
    """See `Voted.subsets`."""


class Counting:
    """Votes on one pool; the same subsets for every scheme."""

    def __init__(self, pool: Pool, *, max_subsets: int, seed: int) -> None:
        self.pool = pool
        self._subsets = cache(lambda k: subsets(pool.samples, k, max_subsets, seed))

    def accuracy(self, rule: Rule, log_weights: np.ndarray, k: int) -> Accuracy:
        """The accuracy of votes of k traces.

        Args:
            rule: how they are counted.
            log_weights: float64 [problem, sample], finite.
            k: traces per vote, at most the pool's.
        """
        pool = self.pool
        match rule:
            case "best":
                return Accuracy(best_accuracy(pool.ballots, pool.right_traces, log_weights, k), "exact", None)
            case "oracle":
                return Accuracy(oracle_accuracy(pool.right_traces, k), "exact", None)
        drawn: Subsets = self._subsets(k)
        return Accuracy(vote_accuracy(pool.ballots, pool.right, log_weights, drawn.members), drawn.how, len(drawn.members))

    def once(self, rule: Rule, log_weights: np.ndarray, k: int) -> np.ndarray:
        """Whether the one vote of the first k traces of each problem is right: bool [problem]."""
        pool, weights = self.pool, log_weights[:, :k]
        match rule:
            case "best":
                return best_accuracy(pool.ballots[:, :k], pool.right_traces[:, :k], weights, k) > 0.5
            case "oracle":
                return np.asarray(pool.right_traces[:, :k].any(axis=1))
        won = winners(pool.ballots[:, :k], pool.right.shape[1], weights)
        return (won >= 0) & pool.right[np.arange(len(won)), won]
