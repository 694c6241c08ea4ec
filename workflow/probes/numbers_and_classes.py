"""Probes of numbers and of classes: ridge regression and multinomial logistic regression, over a path of penalties."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import issparse
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression, Ridge

from workflow.probes.linear import LinearProbe, converges
from workflow.probes.scaling import Matrix, scaling_of

OTHER = "(other)"
"""The class of all tokens or texts that are too rare in training."""
MAX_ITERATIONS = 200


def ridge_path(rows: Matrix, values: np.ndarray, cs: Sequence[float]) -> Iterator[LinearProbe]:
    """A probe for each C in rising order, with the penalty 1/C on the weights of scaled columns and of a standardised target."""
    scaling, middle, spread = scaling_of(rows), values.mean(), values.std() or 1.0
    scaled = scaling(rows)
    for c in cs:
        solver = "sparse_cg" if issparse(scaled) else "auto"
        model = Ridge(alpha=1 / c, solver=solver, tol=1e-6).fit(scaled, (values - middle) / spread)
        weights, intercept = scaling.unscaled(
            np.asarray(model.coef_, np.float64) * spread, float(model.intercept_) * spread + middle
        )
        yield LinearProbe(weights, intercept)


class ClassProbe(NamedTuple):
    """Probabilities of classes: softmax of rows @ weights.T + intercepts on raw columns."""

    seen: np.ndarray
    """Numbers of the classes that were seen in the fit."""
    weights: np.ndarray
    """[seen class, width], float64."""
    intercepts: np.ndarray
    """[seen class]."""
    classes: int
    """All classes."""
    converged: bool = True
    """The solver ended before its limit of iterations."""

    def __call__(self, rows: Matrix) -> np.ndarray:
        """log p, [row, class], float64; a class that was not seen in the fit has a probability of 1e-6."""
        found = np.full((rows.shape[0], self.classes), np.log(1e-6))
        found[:, self.seen] = log_softmax(np.asarray(rows @ self.weights.T, np.float64) + self.intercepts, axis=1)
        return log_softmax(found, axis=1)


def class_path(rows: Matrix, codes: np.ndarray, classes: int, cs: Sequence[float]) -> Iterator[ClassProbe]:
    """A probe for each C in rising order, by multinomial logistic regression with an L2 penalty, rows unweighted."""
    scaling = scaling_of(rows)
    scaled = scaling(rows)
    model: Any = LogisticRegression(solver="lbfgs", tol=1e-3, max_iter=MAX_ITERATIONS, warm_start=True)
    for c in cs:
        converged = converges(model.set_params(C=c), scaled, codes)
        weights, intercepts = np.atleast_2d(model.coef_).astype(np.float64), np.atleast_1d(model.intercept_).astype(np.float64)
        if len(weights) == 1:  # of two classes it tells one
            weights, intercepts = np.vstack([np.zeros_like(weights), weights]), np.r_[0.0, intercepts]
        raw = [scaling.unscaled(*one) for one in zip(weights, intercepts, strict=True)]
        own, shifts = np.stack([one for one, _ in raw]), np.array([shift for _, shift in raw])
        yield ClassProbe(model.classes_.astype(int), own, shifts, classes, converged)


class ClassShares(NamedTuple):
    """The shares of classes in training, whatever the features."""

    log_p: np.ndarray
    """[class]."""

    def __call__(self, rows: Matrix) -> np.ndarray:
        """log p, [row, class]."""
        return np.broadcast_to(self.log_p, (rows.shape[0], len(self.log_p)))


def class_shares(codes: np.ndarray, classes: int) -> ClassShares:
    """Shares with one added to every count, so that no class is impossible."""
    counts = np.bincount(codes.astype(int), minlength=classes) + 1.0
    return ClassShares(np.log(counts / counts.sum()))


def coded(values: np.ndarray, training: np.ndarray, groups: np.ndarray, least: int) -> tuple[np.ndarray, list[str]]:
    """Classes as numbers: the values seen in at least `least` training groups in their order, then all others as one.

    Args:
        values: text, of the known steps.
        training: which of them are for training.
        groups: number of each one's group.
        least: groups.
    """
    counts: dict[str, int] = {}
    for name in np.unique(values[training].astype(str)):
        counts[str(name)] = len(np.unique(groups[training & (values == name)]))
    names = [name for name, count in counts.items() if count >= least] + [OTHER]
    place = {name: at for at, name in enumerate(names)}
    return np.array([place.get(str(value), len(names) - 1) for value in values]), names
