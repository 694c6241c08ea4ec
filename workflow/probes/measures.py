"""What is measured of a probe on held-out steps: the point and a replicate for each draw of prompts, then intervals.

What is drawn are groups of near-duplicate prompts: what a policy does to one of them it does to the others.

Binary: AUROC, average precision, Brier score Σ(p − y)²/n, accuracy at p ≥ ½, and the expected calibration error
Σ_b |Σ_{i in b} (p_i − y_i)| / n over bins b of equal width on [0, 1]. Numbers: R² about the mean of the measured steps, mean
absolute and mean squared error. Classes: −log p of the right class in nats per step, and the share of steps where it is the
likeliest.
Replicates in which a class is not drawn have no AUROC; intervals are over the others.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from workflow.formats.drift_columns import Estimate
from workflow.probes.folds import NotFittedError
from workflow.ranking import Ranking, ranking, together
from workflow.statistics import interval, multiplicities

LEAST_FINITE = 0.95
"""Share of replicates that must have a value, else there is no interval and no number."""
Replicates = dict[str, np.ndarray]
"""[1 + replicates] by measure, the point first."""


class Draws(NamedTuple):
    """Draws of the groups of prompts of a split, the same for every probe, task and feature set: differences are paired."""

    names: np.ndarray
    """Groups, rising."""
    weights: np.ndarray
    """[1 + replicates, group]: ones, then how often each is drawn; of fewer than two groups the ones alone."""
    confidence: float

    def index(self, groups: np.ndarray) -> np.ndarray:
        """Places of groups."""
        return np.searchsorted(self.names, groups)

    def total(self, values: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """Sum of [row] or [row, column] under every draw."""
        sums = np.zeros((len(self.names), *values.shape[1:]))
        np.add.at(sums, self.index(groups), values)
        return self.weights @ sums

    def estimate(self, replicates: np.ndarray) -> Estimate:
        """The point with the percentile interval of its replicates.

        Raises:
            NotFittedError: there are no replicates, or too many of them have no value.
        """
        if len(replicates) == 1:
            raise NotFittedError(f"{len(self.names)} groups of prompts for testing, fewer than 2")
        finite = np.isfinite(replicates[1:])
        if not np.isfinite(replicates[0]) or finite.mean() < LEAST_FINITE:
            raise NotFittedError(
                f"{int((~finite).sum())} of {finite.size} draws of prompts give no value: one class alone, or all numbers equal"
            )
        return Estimate(float(replicates[0]), *interval(replicates[1:][finite], self.confidence))


def drawn_groups(groups: np.ndarray, bootstrap: Mapping[str, Any]) -> Draws:
    """The draws for all groups of prompts of a split.

    Args:
        groups: of its steps, with repetitions.
        bootstrap: `replicates`, `confidence`, `seed`.
    """
    names = np.unique(groups.astype(str))
    weights = np.ones((1, len(names)))
    if len(names) > 1:
        weights = np.vstack([weights, multiplicities(len(names), bootstrap["replicates"], bootstrap["seed"])])
    return Draws(names, weights, bootstrap["confidence"])


def of_binary(log_odds: np.ndarray, p: np.ndarray, labels: np.ndarray, groups: np.ndarray, drawn: Draws, bins: int) -> Replicates:
    """Measures of probabilities; ranks are those of the log odds, which do not run into 1."""
    ranked = ranking(log_odds, labels == 1, drawn.index(groups), drawn.weights)
    place = np.minimum((p * bins).astype(int), bins - 1)
    gaps = np.zeros((len(p), bins))
    gaps[np.arange(len(p)), place] = p - labels
    rows = drawn.total(np.ones(len(p)), groups)
    return {
        "auroc": ranked.auroc,
        "average_precision": ranked.average_precision,
        "brier": drawn.total((p - labels) ** 2, groups) / rows,
        "ece": np.abs(drawn.total(gaps, groups)).sum(1) / rows,
        "accuracy": drawn.total(((p >= 0.5) == labels).astype(float), groups) / rows,
    }


def of_number(said: np.ndarray, values: np.ndarray, groups: np.ndarray, drawn: Draws) -> Replicates:
    """Measures of predicted numbers."""
    parts = np.stack([np.ones(len(values)), values, values**2, (said - values) ** 2, np.abs(said - values)], 1)
    rows, first, second, squared, absolute = drawn.total(parts, groups).T
    with np.errstate(divide="ignore", invalid="ignore"):
        return {"r2": 1 - squared / (second - first**2 / rows), "mae": absolute / rows, "mse": squared / rows}


def of_classes(nats: np.ndarray, hits: np.ndarray, groups: np.ndarray, drawn: Draws) -> Replicates:
    """Measures of probabilities of classes, from −log p of the right one and whether it was the likeliest."""
    rows, lost, right = drawn.total(np.stack([np.ones(len(nats)), nats, hits], 1), groups).T
    return {"nats": lost / rows, "top_1": right / rows}


def within_strata(scores: np.ndarray, labels: np.ndarray, strata: np.ndarray, groups: np.ndarray, drawn: Draws) -> Ranking:
    """Pairs of steps of one stratum alone: what the scores know beyond the stratum."""
    parts = [np.flatnonzero(strata == one) for one in np.unique(strata)]
    return together([ranking(scores[at], labels[at] == 1, drawn.index(groups[at]), drawn.weights) for at in parts])
