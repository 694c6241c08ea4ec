"""Votes as the SSAE paper's code counts them: answers as strings, so that "18" and "18.0" differ, and ties for the first seen.

Only published figures are to be compared with these.

Source: Miaow-Lab/SSAE, experiment/probing_exp.py.
"""

from collections.abc import Sequence

import numpy as np

from workflow.config.voting import PUBLISHED_K, PUBLISHED_TAU
from workflow.numbers import as_number
from workflow.voting.pool import Pool
from workflow.voting.weights import StepScores

NEAR = 1e-3
"""An answer closer to the gold one than this is right."""


def published_votes(pool: Pool, scores: StepScores | None) -> tuple[np.ndarray, int]:
    """Whether the vote of the first 16 traces (of fewer, all) of each problem is right: bool [problem], and how many these are.

    Args:
        pool: traces.
        scores: weigh a trace by the mean of p^0.8 over its steps; None: all the same.
    """
    k = min(PUBLISHED_K, pool.samples)
    weights = np.ones(pool.ballots.shape) if scores is None else np.exp(scores.log_weights("mean", PUBLISHED_TAU))
    answers, gold = pool.column("published")[:, :k], pool.column("gold")[:, 0]
    winners = [legacy_vote(given, weight) for given, weight in zip(answers, weights[:, :k], strict=True)]
    return np.array([legacy_right(winner, wanted) for winner, wanted in zip(winners, gold, strict=True)]), k


def legacy_vote(answers: Sequence[str | None] | np.ndarray, weights: Sequence[float] | np.ndarray) -> str | None:
    """The string of the largest total; of equal ones the first seen; None where all traces are without a number."""
    totals: dict[str, float] = {}
    for answer, weight in zip(answers, weights, strict=True):
        if answer is not None:
            totals[answer] = totals.get(answer, 0.0) + float(weight)
    return max(totals, key=lambda answer: totals[answer]) if totals else None


def legacy_right(answer: str | None, gold: str | None) -> bool:
    """Whether two numbers as strings are within 0.001 of each other."""
    value = None if gold is None else as_number(gold)
    return answer is not None and value is not None and abs(float(answer) - float(value)) < NEAR
