"""Aggregation and τ of a probe, chosen on development problems alone."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from workflow.config.voting import Aggregation
from workflow.voting.counting import Counting, Rule
from workflow.voting.weights import StepScores


class Choice(NamedTuple):
    """One way to make weights of the scores of steps."""

    aggregation: Aggregation
    tau: float
    accuracy: float | None
    """On development problems; None without any."""


class Tuning(NamedTuple):
    """What was tried, and what was chosen."""

    chosen: Choice
    tried: list[Choice]
    """Empty where there are no scores of development problems; the first of the lists is chosen then."""


def tune(counting: Counting | None, scores: StepScores | None, rule: Rule, k: int, settings: Mapping[str, Any]) -> Tuning:
    """The choice of the largest accuracy, of equal ones the first.

    Args:
        counting: votes on development problems, None without any.
        scores: of the probe for these, None without any.
        rule: `vote`, or `best`, where τ is 1.
        k: traces per vote, at most the pool's.
        settings: `aggregations` and `taus`, in the order of preference.
    """
    taus = settings["taus"] if rule == "vote" else [1.0]
    grid = [Choice(aggregation, tau, None) for aggregation in settings["aggregations"] for tau in taus]
    if counting is None or scores is None:
        return Tuning(grid[0], [])
    k = min(k, counting.pool.samples)
    tried = [
        each._replace(accuracy=float(counting.accuracy(rule, scores.log_weights(each.aggregation, each.tau), k).values.mean()))
        for each in grid
    ]
    return Tuning(max(tried, key=lambda each: each.accuracy or 0.0), tried)
