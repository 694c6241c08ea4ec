"""The schemes that are compared on one pool, with the accuracy of each."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from workflow.config.voting import PUBLISHED_TAU
from workflow.frames import Table
from workflow.voting.counting import Accuracy, Counting, Rule
from workflow.voting.pool import DEVELOPMENT, REPORTED, Pool
from workflow.voting.probes_read import Probe
from workflow.voting.published import published_votes
from workflow.voting.tuning import Tuning, tune
from workflow.voting.weights import StepScores, plain_weights, step_scores

MAJORITY, ORACLE, PUBLISHED = "majority", "oracle", "published_majority"


class Scheme(NamedTuple):
    """A scheme with its accuracy on the reported problems."""

    scheme: str
    """Name, see `workflow.formats.voting_columns`."""
    probe: Probe | None
    aggregation: str | None
    tau: float | None
    tuning: Tuning | None
    """None where nothing was chosen."""
    k: int
    """Traces per vote of the reported numbers."""
    by_k: dict[int, Accuracy]
    once: np.ndarray
    """bool [problem]: the one vote of the first k traces is right."""
    unscored: int | None
    partly_scored: int | None

    @property
    def against(self) -> str:
        """The scheme it is compared with."""
        return PUBLISHED if self.scheme.startswith("published") else MAJORITY


class Counters(NamedTuple):
    """Votes on both splits of a pool."""

    reported: Counting
    development: Counting | None
    ks: list[int]
    """Numbers of traces, rising."""
    k: int
    """That of the reported numbers, one of them."""


def counters(pools: Mapping[str, Pool], settings: Mapping[str, Any]) -> Counters:
    """Votes on the pools of the splits."""
    made = {split: Counting(pool, max_subsets=settings["max_subsets"], seed=settings["seed"]) for split, pool in pools.items()}
    n = pools[REPORTED].samples
    k = settings["k"] or n
    return Counters(made[REPORTED], made.get(DEVELOPMENT), sorted({k, *(each for each in settings["curve"] if each <= n)}), k)


def plain_schemes(at: Counters, seed: int) -> Iterator[Scheme]:
    """Those without a probe, majority first."""
    pool = at.reported.pool
    for name, weights in plain_weights(pool, seed).items():
        yield _counted(at, name, "vote", weights)
    yield _counted(at, ORACLE, "oracle", np.zeros(pool.ballots.shape))
    yield _published(pool, PUBLISHED, None, None)


def probe_schemes(at: Counters, probe: Probe, rows: Table, settings: Mapping[str, Any]) -> Iterator[Scheme]:
    """Those of one probe; none where it has no score of a reported step.

    Args:
        at: votes on both splits.
        probe: the probe.
        rows: its scores of both splits.
        settings: section `voting`.
    """
    scores = step_scores(at.reported.pool, rows[rows["split"] == REPORTED], probe.said())
    if scores is None:
        return
    development = None
    if at.development is not None:
        development = step_scores(at.development.pool, rows[rows["split"] == DEVELOPMENT], probe.said())
    for name, rule in (("probe_vote", "vote"), ("probe_best", "best")):
        tuning = tune(at.development, development, rule, at.k, settings)  # type: ignore[arg-type]  # one of the rules
        weights = scores.log_weights(tuning.chosen.aggregation, tuning.chosen.tau)
        yield _counted(at, name, rule, weights, probe, scores, tuning)  # type: ignore[arg-type]  # one of the rules
    yield _counted(at, "probe_published", "vote", scores.log_weights("mean", PUBLISHED_TAU), probe, scores)
    yield _published(at.reported.pool, "published_vote", probe, scores)


def _counted(
    at: Counters, name: str, rule: Rule, weights: np.ndarray, probe: Probe | None = None, scores: StepScores | None = None,
    tuning: Tuning | None = None,
) -> Scheme:  # fmt: skip
    by_k = {k: at.reported.accuracy(rule, weights, k) for k in at.ks}
    aggregation, tau = ("mean", PUBLISHED_TAU) if tuning is None else tuning.chosen[:2]
    unscored, partly = (None, None) if scores is None else (scores.unscored, scores.partly)
    ways = (None, None) if probe is None else (aggregation, tau)
    return Scheme(name, probe, *ways, tuning, at.k, by_k, at.reported.once(rule, weights, at.k), unscored, partly)


def _published(pool: Pool, name: str, probe: Probe | None, scores: StepScores | None) -> Scheme:
    once, k = published_votes(pool, scores)
    by_k = {k: Accuracy(once.astype(np.float64), "first", 1)}
    ways = (None, None) if probe is None else ("mean", PUBLISHED_TAU)
    unscored, partly = (None, None) if scores is None else (scores.unscored, scores.partly)
    return Scheme(name, probe, *ways, None, k, by_k, once, unscored, partly)
