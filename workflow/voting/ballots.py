"""Votes of k traces of a pool, over all subsets of k: by weights, by the best trace, and by whoever knows the answer.

A trace without an answer takes one of the k places and votes for nothing; where no trace of a subset has an answer, its vote is
wrong. Answers whose totals agree within a share of TIE are tied, and the first in the order of `Pool.ballots` wins; of
traces with the same score the earlier sample is the better one.
"""

from itertools import combinations
from math import comb
from typing import NamedTuple

import numpy as np

TIE = 1e-9
"""Totals within this share of the largest count as equal: sums of the same weights in another order differ in the last digits."""
LEAST = 1e-30
"""Weights below this share of the largest of their problem count as this share."""
VALUES = 1 << 22
"""Totals held at a time: 32 MB."""


class Subsets(NamedTuple):
    """Subsets of the samples of a pool, the same for every problem and scheme."""

    members: np.ndarray
    """bool [subset, sample]."""
    how: str
    """`enumerated`: all there are; `sampled`: drawn, each as likely and independent of the others."""


def subsets(n: int, k: int, most: int, seed: int) -> Subsets:
    """Subsets of k of n samples: all where there are no more than `most`, else so many drawn ones.

    The same arguments give the same subsets, so schemes are compared on the same votes.
    """
    if comb(n, k) <= most:
        chosen = np.array(list(combinations(range(n), k)))
    else:
        chosen = np.random.default_rng([seed, n, k]).random((most, n)).argpartition(k - 1, axis=1)[:, :k]
    members = np.zeros((len(chosen), n), dtype=bool)
    np.put_along_axis(members, chosen, True, axis=1)
    return Subsets(members, "enumerated" if comb(n, k) <= most else "sampled")


def vote_accuracy(ballots: np.ndarray, right: np.ndarray, log_weights: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Share of the subsets whose largest total of weights is a right answer's: float64 [problem].

    Args:
        ballots: int64 [problem, sample], see Pool.
        right: bool [problem, answer].
        log_weights: float64 [problem, sample], finite; a constant per problem changes nothing.
        members: bool [subset, sample].
    """
    weights = np.maximum(np.exp(log_weights - log_weights.max(axis=1, keepdims=True)), LEAST)
    chosen, accuracy = members.astype(np.float64), np.empty(len(ballots))
    rows = max(1, VALUES // (len(members) * right.shape[1]))
    for start in range(0, len(ballots), rows):
        part = slice(start, start + rows)
        cast = ballots[part, :, None] == np.arange(right.shape[1])
        totals = chosen @ (cast * weights[part, :, None])
        most = totals.max(axis=2, keepdims=True)
        winner = (totals >= most * (1 - TIE)).argmax(axis=2)
        won = np.take_along_axis(right[part], winner, axis=1) & (most[..., 0] > 0)
        accuracy[part] = won.mean(axis=1)
    return accuracy


def best_accuracy(ballots: np.ndarray, right_traces: np.ndarray, scores: np.ndarray, k: int) -> np.ndarray:
    """Probability that the trace of the largest score among k of n is right, exactly: float64 [problem].

    The trace of rank r from 0 is the best of a subset if it is in it and no better one is: in C(n−1−r, k−1) of C(n, k) subsets.
    Traces without an answer are taken where there is no other, and are wrong.
    """
    n = ballots.shape[1]
    order = np.argsort(np.where(ballots >= 0, -scores, np.inf), axis=1, kind="stable")
    chances = np.array([comb(n - 1 - rank, k - 1) / comb(n, k) for rank in range(n)])
    return np.take_along_axis(right_traces, order, axis=1) @ chances


def oracle_accuracy(right_traces: np.ndarray, k: int) -> np.ndarray:
    """pass@k, the probability that one of k of n traces at least is right, exactly: float64 [problem].

    Source: Chen et al. 2021, Evaluating Large Language Models Trained on Code, eq. 1: 1 − C(n−c, k) / C(n, k) with c right traces.
    """
    n = right_traces.shape[1]
    missed = np.array([comb(n - count, k) / comb(n, k) for count in range(n + 1)])
    return 1 - missed[right_traces.sum(axis=1)]
