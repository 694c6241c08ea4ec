"""Linear probes of binary labels: logistic regression with an L2 or L1 penalty, on few chosen columns, on principal components.

Both classes count alike in a fit, however rare one is; `calibrated` in `cells` makes probabilities of this world of its log odds.

A path goes through rising C, weaker penalties, and starts each fit from the one before where the solver can: `lbfgs` for L2 does,
`liblinear` for L1 cannot, and is faster even so than `saga`, which can (`benchmarks/results/probes.csv`).
"""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn import config_context
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from workflow.probes.scaling import Matrix, scaling_of

L2, L1, K_SPARSE, PCA_L2, MLP, PREVALENCE = "l2", "l1", "k_sparse", "pca", "mlp", "prevalence"
MAX_ITERATIONS = 300
TOLERANCE = {L2: 1e-4, L1: 1e-2}


class Recipe(NamedTuple):
    """How a probe is fitted."""

    penalty: str
    """l2, l1, k_sparse, pca; or mlp, or prevalence, which knows the training labels alone."""
    size: int = 0
    """Columns that k_sparse chooses, components that pca keeps."""

    @property
    def name(self) -> str:
        """Name in tables: `k_sparse_8`."""
        return f"{self.penalty}_{self.size}" if self.size else self.penalty


class LinearProbe(NamedTuple):
    """rows @ weights + intercept on raw columns: log odds, or a number."""

    weights: np.ndarray
    """[width], float64."""
    intercept: float
    converged: bool = True
    """The solver ended before its limit of iterations."""

    def __call__(self, rows: Matrix) -> np.ndarray:
        """[row], float64."""
        return np.asarray(rows @ self.weights, np.float64) + self.intercept

    def rescaled(self, slope: float, shift: float) -> "LinearProbe":
        """The probe that says slope · this + shift."""
        return self._replace(weights=self.weights * slope, intercept=self.intercept * slope + shift)


def fit_path(recipe: Recipe, rows: Matrix, labels: np.ndarray, cs: Sequence[float]) -> Iterator[LinearProbe]:
    """A probe for each C, in rising order.

    Args:
        recipe: kind of probe.
        rows: [row, column], raw.
        labels: 0 or 1, both there.
        cs: inverse strengths of the penalty, rising.

    Source: for k-sparse probes Gurnee et al. 2023, arXiv 2305.01610, with the columns of the largest difference of class means.
    """
    scaling = scaling_of(rows)
    scaled = scaling(rows)
    basis: np.ndarray | None = None
    chosen = np.arange(rows.shape[1])
    if recipe.penalty == K_SPARSE:
        chosen = most_different(scaled, labels, recipe.size)
        scaled = np.asarray(scaled[:, chosen] if isinstance(scaled, np.ndarray) else scaled[:, chosen].toarray())
    if recipe.penalty == PCA_L2 and scaled.any():  # constant columns have no components
        reduced = PCA(min(recipe.size, *scaled.shape), svd_solver="covariance_eigh").fit(scaled)
        basis, scaled = reduced.components_, reduced.transform(scaled)
    for weights, intercept, converged in _logistic_path(L1 if recipe.penalty == L1 else L2, scaled, labels, cs):
        own = weights if basis is None else weights @ basis  # scaled rows have mean 0, so the components need no shift
        whole = np.zeros(rows.shape[1])
        whole[chosen] = own
        yield LinearProbe(*scaling.unscaled(whole, intercept), converged)


def most_different(scaled: Matrix, labels: np.ndarray, count: int) -> np.ndarray:
    """The columns whose class means differ most, rising; of equal ones the first."""
    up, down = (np.asarray(scaled[np.flatnonzero(labels == one)].mean(axis=0)).ravel() for one in (1, 0))
    return np.sort(np.argsort(-np.abs(up - down), kind="stable")[:count])


def converges(model: Any, rows: Matrix, labels: np.ndarray) -> bool:
    """Fit a model of scikit-learn; whether its solver ended before its limit of iterations."""
    # parameters are those of this room; to check them anew costs as much as a fit of few steps
    with config_context(skip_parameter_validation=True), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model.fit(rows, labels)
    return not any(issubclass(one.category, ConvergenceWarning) for one in told)


def _logistic_path(penalty: str, rows: Matrix, labels: np.ndarray, cs: Sequence[float]) -> Iterator[tuple[np.ndarray, float, bool]]:
    """Coefficients, intercept and whether the fit converged, for each C."""
    solver = {L2: "lbfgs", L1: "liblinear"}[penalty]
    model: Any = LogisticRegression(
        l1_ratio=float(penalty == L1), class_weight="balanced", solver=solver, tol=TOLERANCE[penalty], max_iter=MAX_ITERATIONS,
        warm_start=penalty == L2, random_state=0, intercept_scaling=10 if penalty == L1 else 1,
    )  # fmt: skip
    for c in cs:
        converged = converges(model.set_params(C=c), rows, labels)
        yield model.coef_[0].astype(np.float64).copy(), float(model.intercept_[0]), converged
