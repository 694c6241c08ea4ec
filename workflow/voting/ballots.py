"""Votes of k traces of a pool, over all subsets of k: by weights, by the best trace, and by whoever knows the answer.

A trace without an answer takes one of the k places and votes for nothing; where no trace of a subset has an answer, its vote is
wrong. Answers whose totals agree within a share of TIE are tied. An accuracy counts a tie as the share of right answers among the
tied, what breaking it by lot gives on average; where one winner is needed, it is the first in the order of `Pool.ballots`. Of
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
    """Share of the subsets whose largest total of weights is a right answer's, ties shared out: float64 [problem].

    Args:
        ballots: int64 [problem, sample], see Pool.
        right: bool [problem, answer].
        log_weights: float64 [problem, sample], finite; a constant per problem changes nothing.
        members: bool [subset, sample].
    """
    accuracy = np.empty(len(ballots))
    rows = max(1, VALUES // (len(members) * right.shape[1]))
    for start in range(0, len(ballots), rows):
        part = slice(start, start + rows)
        leads = _leads(ballots[part], right.shape[1], log_weights[part], members)
        won = (leads & right[part, None]).sum(axis=2) / np.maximum(leads.sum(axis=2), 1)
        accuracy[part] = won.mean(axis=1)
    return accuracy


def winners(ballots: np.ndarray, answers: int, log_weights: np.ndarray) -> np.ndarray:
    """The winner of the one vote of all given traces, of tied ones the first: int64 [problem], −1 where none has an answer."""
    leads = _leads(ballots, answers, log_weights, np.ones((1, ballots.shape[1]), dtype=bool))[:, 0]
    return np.where(leads.any(axis=1), leads.argmax(axis=1), -1)


def _leads(ballots: np.ndarray, answers: int, log_weights: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Whether no answer has a larger total: bool [problem, subset, answer]; none where no trace has an answer."""
    weights = np.maximum(np.exp(log_weights - log_weights.max(axis=1, keepdims=True)), LEAST)
    cast = ballots[:, :, None] == np.arange(answers)
    totals = members.astype(np.float64) @ (cast * weights[:, :, None])
    return (totals >= totals.max(axis=2, keepdims=True) * (1 - TIE)) & (totals > 0)


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
