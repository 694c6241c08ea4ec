"""Probes of numbers and of classes: ridge regression and multinomial logistic regression, over a path of penalties."""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import issparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge

from workflow.probes.linear import LinearProbe
from workflow.probes.scaling import Matrix, Scaling, scaling_of

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
    """Probabilities of classes."""

    model: Any
    """A fitted LogisticRegression."""
    scaling: Scaling
    classes: int

    def __call__(self, rows: Matrix) -> np.ndarray:
        """log p, [row, class], float64; a class that was not seen in the fit has a probability of 1e-6."""
        found = np.full((rows.shape[0], self.classes), np.log(1e-6))
        found[:, self.model.classes_.astype(int)] = self.model.predict_log_proba(self.scaling(rows))
        return found - np.log(np.exp(found).sum(1, keepdims=True))


def class_path(rows: Matrix, codes: np.ndarray, classes: int, cs: Sequence[float]) -> Iterator[ClassProbe]:
    """A probe for each C in rising order, by multinomial logistic regression with an L2 penalty, rows unweighted."""
    scaling = scaling_of(rows)
    scaled = scaling(rows)
    model: Any = LogisticRegression(solver="lbfgs", tol=1e-3, max_iter=MAX_ITERATIONS, warm_start=True)
    for c in cs:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.set_params(C=c).fit(scaled, codes)
        one: Any = LogisticRegression()
        one.coef_, one.intercept_, one.classes_ = model.coef_.copy(), model.intercept_.copy(), model.classes_
        yield ClassProbe(one, scaling, classes)


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
