"""How well scores put positives before negatives, under many weightings of the prompts at once: AUROC and average precision.

A weighting says how often each prompt is drawn (`workflow.statistics.multiplicities`), so that a bootstrap over prompts sorts the
scores once. Equal scores count half in the AUROC and stand together in the average precision.
"""

from typing import NamedTuple

import numpy as np

CHUNK_VALUES = 1 << 22
"""Weights held together: 32 MB."""


class Ranking(NamedTuple):
    """Sums under each weighting, float64 [weighting]."""

    concordant: np.ndarray
    """Pairs of a positive and a negative in the right order; half of those with equal scores."""
    pairs: np.ndarray
    """All pairs of a positive and a negative."""
    precision: np.ndarray
    """Σ over positives of the precision at their score."""
    positives: np.ndarray
    """Positives."""

    @property
    def auroc(self) -> np.ndarray:
        """P(score of a positive > that of a negative), ties half; NaN where a class is not drawn."""
        return _ratio(self.concordant, self.pairs)

    @property
    def average_precision(self) -> np.ndarray:
        """Mean over positives of the precision at their score; NaN where none is drawn."""
        return _ratio(self.precision, self.positives)


def ranking(scores: np.ndarray, positive: np.ndarray, prompts: np.ndarray, weights: np.ndarray) -> Ranking:
    """Sums for AUROC and average precision.

    Args:
        scores: [row], larger for more likely positives.
        positive: [row], bool.
        prompts: [row], the place of the row's prompt in `weights`.
        weights: [weighting, prompt], how often each prompt counts.

    Source: Hanley & McNeil 1982, Radiology 143, 29 (AUROC as a share of pairs); average precision as Σ (R_n − R_{n−1}) P_n.
    """
    order = np.argsort(scores, kind="stable")
    ordered, positive, prompts = scores[order], np.asarray(positive, bool)[order], prompts[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]][: len(ordered)])
    tied = len(starts) < len(ordered)
    found = np.empty((4, len(weights)))
    chunk = max(1, CHUNK_VALUES // max(1, len(ordered)))
    for first in range(0, len(weights), chunk):
        drawn = weights[first : first + chunk, :].astype(np.float64)[:, prompts]
        up, down = drawn * positive, drawn * ~positive
        if tied:
            up, down = (np.add.reduceat(part, starts, axis=1) for part in (up, down))
        found[:, first : first + chunk] = _sums(up, down)
    return Ranking(*found)


def together(rankings: list[Ranking]) -> Ranking:
    """Sums over strata: pairs within a stratum alone."""
    return Ranking(*(np.sum(parts, axis=0) for parts in zip(*rankings, strict=True)))


def _sums(up: np.ndarray, down: np.ndarray) -> tuple[np.ndarray, ...]:
    """Of weights of positives and negatives at rising scores, [weighting, score]."""
    up_so_far, down_so_far = np.cumsum(up, axis=1), np.cumsum(down, axis=1)
    positives, negatives = up_so_far[:, -1], down_so_far[:, -1]
    concordant = (up * (down_so_far - down / 2)).sum(1)
    hits = positives[:, None] - up_so_far + up  # drawn positives with this score or a larger one
    misses = negatives[:, None] - down_so_far + down
    precision = (up * _ratio(hits, hits + misses, empty=0.0)).sum(1)
    return concordant, positives * negatives, precision, positives


def _ratio(over: np.ndarray, under: np.ndarray, empty: float = np.nan) -> np.ndarray:
    return np.divide(over, under, out=np.full(np.shape(over), empty), where=np.asarray(under) > 0)
