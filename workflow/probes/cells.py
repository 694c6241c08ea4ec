"""One probe: its candidates tried on the folds of the training steps, the best fitted to all of these."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression

from workflow.config.probe_fits import MlpSettings, ProbeFitsConfig
from workflow.probes.folds import NotFittedError, check_classes, grouped_folds
from workflow.probes.linear import K_SPARSE, L1, L2, MLP, PCA_L2, PREVALENCE, LinearProbe, Recipe, fit_path
from workflow.probes.numbers_and_classes import ClassProbe, ClassShares, class_path, class_shares, ridge_path
from workflow.probes.perceptron import Perceptron, trained
from workflow.probes.scaling import Matrix
from workflow.probes.sets import FeatureSet
from workflow.probes.tasks import BINARY, CLASSES
from workflow.ranking import ranking

LEAST_SLOPE = 1e-3
"""Of calibrated log odds against standardised ones."""
Says = LinearProbe | Perceptron | ClassProbe | ClassShares
"""A fitted probe, called with raw rows: log odds or numbers [row], or log p [row, class]."""


class Cell(NamedTuple):
    """What is to be fitted: labels of the training steps that have both label and features."""

    kind: str
    rows: Matrix
    """[step, column], raw."""
    values: np.ndarray
    """[step]; classes as numbers."""
    groups: np.ndarray
    classes: int
    """Classes of a task of classes."""


class Fitted(NamedTuple):
    """A probe and how it was chosen."""

    says: Says
    validation: float
    """The measure of the task over the folds, at the best candidate."""
    c: float | None
    epochs: int | None
    unconverged: int
    """Fits, of every candidate on every fold and the last one, whose solver stopped at its limit of iterations."""


def recipes(kind: str, features: FeatureSet, settings: ProbeFitsConfig) -> list[Recipe]:
    """The recipes that suit a task and the form of a set."""
    found = [Recipe(name) for name in (L2, MLP) if name in settings.models]
    if kind == BINARY:
        found += [Recipe(L1)] * (L1 in settings.models)
        if features.sparse and features.columns is None and K_SPARSE in settings.models:  # latents, not words
            found += [Recipe(K_SPARSE, count) for count in settings.k if count <= features.rows.shape[1]]
        if not features.sparse and PCA_L2 in settings.models:
            found += [Recipe(PCA_L2, count) for count in settings.components if count < features.rows.shape[1]]
    return found


def fitted(cell: Cell, recipe: Recipe, settings: ProbeFitsConfig, seed: int) -> Fitted:
    """A probe whose penalty, or number of epochs, its own folds chose; of equal ones the first.

    Raises:
        NotFittedError: too few groups of prompts, or of a class.
    """
    folds = grouped_folds(cell.values, cell.groups, cell.kind, settings.folds, settings.min_problems)
    tried = _candidates(recipe, settings)
    merits, held, unconverged = np.zeros((len(tried), 2)), np.zeros((len(tried), len(cell.values))), 0
    for fold in folds:
        for at, says in enumerate(_path(_part(cell, fold.fit), recipe, tried, settings.mlp.chosen, seed)):
            said = says(cell.rows[fold.held])
            merits[at] += _merit(cell, said, cell.values[fold.held])
            held[at, fold.held] = said if cell.kind == BINARY else 0
            unconverged += not _converged(says)
    values = merits[:, 0] / merits[:, 1]
    best = int(np.argmax(values))
    again = tried[: best + 1] if recipe.penalty == MLP else tried[best : best + 1]
    says = next(reversed(list(_path(cell, recipe, again, settings.mlp.chosen, seed))))
    unconverged += not _converged(says)
    if cell.kind == BINARY and recipe.penalty != PREVALENCE and isinstance(says, LinearProbe | Perceptron):
        says = says.rescaled(*calibration(held[best], cell.values))
    linear = recipe.penalty not in (MLP, PREVALENCE)
    epochs = best + 1 if recipe.penalty == MLP else None
    return Fitted(says, float(values[best]), tried[best] if linear else None, epochs, unconverged)


def calibration(log_odds: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Slope and shift that make log odds of training steps, each from a fit without its fold, those of their labels.

    The slope stays above 0, so that the order of scores and all measures of it stay.

    Source: Platt 1999, Probabilistic outputs for support vector machines, with labels as they are.
    """
    spread = float(log_odds.std()) or 1.0
    model = LogisticRegression(C=np.inf, tol=1e-6).fit((log_odds / spread)[:, None], labels)
    slope = float(model.coef_[0, 0])
    if slope < LEAST_SLOPE:
        mean = float(labels.mean())
        return LEAST_SLOPE / spread, float(np.log(mean / (1 - mean)) - LEAST_SLOPE * log_odds.mean() / spread)
    return slope / spread, float(model.intercept_[0])


def check_measurable(kind: str, values: np.ndarray, groups: np.ndarray, least: int) -> None:
    """Refuse to measure on too few groups of prompts.

    Raises:
        NotFittedError: with the counts.
    """
    if kind == BINARY:
        check_classes(values, groups, least, "testing")
    elif len(np.unique(groups)) < least:
        raise NotFittedError(f"{len(np.unique(groups))} groups of prompts for testing, fewer than {least}")


def _converged(says: Says) -> bool:
    return not isinstance(says, LinearProbe | ClassProbe) or says.converged


def _candidates(recipe: Recipe, settings: ProbeFitsConfig) -> Sequence[float]:
    if recipe.penalty == MLP:
        return range(settings.mlp.chosen.epochs)
    return [0.0] if recipe.penalty == PREVALENCE else settings.c_grid


def _part(cell: Cell, places: np.ndarray) -> Cell:
    return cell._replace(rows=cell.rows[places], values=cell.values[places], groups=cell.groups[places])


def _path(cell: Cell, recipe: Recipe, tried: Sequence[float], mlp: MlpSettings, seed: int) -> Iterator[Says]:
    if recipe.penalty == PREVALENCE:
        return iter([_knows_labels_alone(cell)])
    if recipe.penalty == MLP:
        return trained(cell.kind, cell.rows, cell.values, cell.classes, len(tried), mlp, seed)
    if cell.kind == BINARY:
        return fit_path(recipe, cell.rows, cell.values, tried)
    if cell.kind == CLASSES:
        return class_path(cell.rows, cell.values, cell.classes, tried)
    return ridge_path(cell.rows, cell.values, tried)


def _knows_labels_alone(cell: Cell) -> Says:
    if cell.kind == CLASSES:
        return class_shares(cell.values, cell.classes)
    mean = float(cell.values.mean())
    return LinearProbe(np.zeros(cell.rows.shape[1]), float(np.log(mean / (1 - mean))) if cell.kind == BINARY else mean)


def _merit(cell: Cell, said: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    """Over and under the fraction line of the measure, for one fold's held-out steps."""
    if cell.kind == BINARY:
        found = ranking(said, right == 1, np.zeros(len(right), int), np.ones((1, 1)))
        return float(found.concordant[0]), float(found.pairs[0])
    if cell.kind == CLASSES:
        return float(said[np.arange(len(right)), right.astype(int)].sum()), float(len(right))
    whole = float(((right - cell.values.mean()) ** 2).sum())
    return whole - float(((said - right) ** 2).sum()), whole
