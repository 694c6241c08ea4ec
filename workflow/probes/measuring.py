"""The row of one probe, and what it says of held-out steps."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from scipy.special import expit

from workflow.config.probe_fits import ProbeFitsConfig
from workflow.formats.drift_columns import Estimate
from workflow.formats.probe_columns import Probe
from workflow.formats.probe_fits import HELD_OUT, WEIGHTS
from workflow.formats.probe_scores import family
from workflow.frames import Table
from workflow.probes.cells import Cell, Fitted, check_measurable, fitted
from workflow.probes.folds import NotFittedError
from workflow.probes.linear import LinearProbe, Recipe
from workflow.probes.measures import Draws, of_binary, of_classes, of_number
from workflow.probes.numbers_and_classes import ClassProbe, coded
from workflow.probes.sets import FeatureSet
from workflow.probes.steps import TEST, TRAIN, Steps
from workflow.probes.tasks import BINARY, CLASSES, NUMBER, Task

NOTHING: dict[str, Any] = dict.fromkeys(
    ("c", "validation", "used", "nonzero", "unconverged", "auroc", "average_precision", "brier", "ece", "accuracy", "r2", "mae",
     "mse", "train_mse", "nats", "top_1", "classes", "prevalence", "epochs")
)  # fmt: skip


class Bench(NamedTuple):
    """What all probes of one place share."""

    place: Mapping[str, Any]
    """run, stage, layer."""
    steps: Steps
    drawn: Draws
    """Draws of the groups of prompts of the split test."""
    settings: ProbeFitsConfig
    seed: int


class Made(NamedTuple):
    """One probe, its row, and what it says of held-out steps."""

    row: Probe
    fit: Fitted
    recipe: Recipe
    places: np.ndarray
    """Held-out steps, as places of `Steps`."""
    scores: np.ndarray
    """As in `HELD_OUT`."""
    labels: np.ndarray
    classes: list[str]
    """Names of the classes of a task of classes."""


def probe(bench: Bench, task: Task, features: FeatureSet, recipe: Recipe) -> tuple[Probe, Made | None]:
    """Fit and measure one probe; a cell that cannot be is a row with the reason."""
    train, test = (bench.steps.rows(split) for split in (TRAIN, TEST))
    usable = task.known & features.present
    fit_on, measured = train[usable[train]], test[usable[test]]
    values, names = _values(bench, task, fit_on)
    told = {
        **bench.place, "task": task.name, "kind": task.kind, "same_step": task.same_step, "features": features.name,
        "family": family(features.name), "model": recipe.name, "train_steps": len(fit_on), "steps": len(measured),
        "prompts": bench.steps.table["problem"].iloc[measured].nunique(),
        "missing": int((~task.known[np.r_[train, test]]).sum()),
        "without_features": int((task.known & ~features.present)[np.r_[train, test]].sum()),
    }  # fmt: skip
    facts = dict(NOTHING)
    cell = Cell(task.kind, features.rows[fit_on], values[fit_on], bench.steps.groups[fit_on], len(names))
    try:
        if not features.rows.shape[1]:
            raise NotFittedError("the set has no columns")
        facts |= _share(task, values[measured], names)
        groups = bench.steps.group_names
        check_measurable(task.kind, values[measured], groups[measured], bench.settings.min_problems)
        fit = fitted(cell, recipe, bench.settings, bench.seed)
        facts |= {"c": fit.c, "epochs": fit.epochs, "validation": fit.validation, "nonzero": _nonzero(fit)}
        facts |= {"unconverged": None if fit.c is None else fit.unconverged}
        held = _held_out(bench, task, features)
        scores, labels = _scores(task, fit, features.rows[held], values[held])
        inside = np.isin(held, measured)
        facts |= _estimates(bench, task, scores[inside], labels[inside], groups[held[inside]])
        if task.kind == NUMBER:
            facts["train_mse"] = float(((fit.says(cell.rows) - cell.values) ** 2).mean())
    except NotFittedError as reason:
        return Probe(**told, **facts, not_fitted=str(reason)), None
    row = Probe(**told, **facts, not_fitted=None)
    return row, Made(row, fit, recipe, held, scores, labels, names)


def _values(bench: Bench, task: Task, fit_on: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Labels as numbers, NaN where missing, and the names of classes."""
    if task.kind != CLASSES:
        return task.values, []
    training = np.zeros(len(task.values), bool)
    training[fit_on] = True
    known = np.flatnonzero(task.known)
    least = max(bench.settings.folds, bench.settings.min_problems)
    codes, names = coded(task.values[known], training[known], bench.steps.groups[known], least)
    values = np.full(len(task.values), np.nan)
    values[known] = codes
    return values, names


def _share(task: Task, values: np.ndarray, names: list[str]) -> dict[str, Any]:
    """What stands in the row of a cell, fitted or not."""
    if task.kind == CLASSES:
        most = np.bincount(values.astype(int), minlength=len(names)).max() / len(values) if len(values) else None
        return {"classes": len(names), "prevalence": most}
    return {"prevalence": float(values.mean())} if task.kind == BINARY and len(values) else {}


def _held_out(bench: Bench, task: Task, features: FeatureSet) -> np.ndarray:
    """Steps of val and test with these features; of a yes/no label also those where it is unknown."""
    held = np.flatnonzero(bench.steps.table["split"].to_numpy(str) != TRAIN)
    return held[features.present[held] & (task.known[held] | (task.kind == BINARY))]


def _scores(task: Task, fit: Fitted, rows: Any, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    said = fit.says(rows)
    if task.kind != CLASSES:
        return said, values
    right = values.astype(int)
    return said[np.arange(len(right)), right], (said.argmax(1) == right).astype(np.float64)


def _estimates(bench: Bench, task: Task, scores: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> dict[str, Estimate]:
    if task.kind == BINARY:
        found = of_binary(scores, expit(scores), labels, groups, bench.drawn, bench.settings.bins)
    elif task.kind == CLASSES:
        found = of_classes(-scores, labels, groups, bench.drawn)
    else:
        found = of_number(scores, labels, groups, bench.drawn)
    return {name: bench.drawn.estimate(replicates) for name, replicates in found.items()}


def _nonzero(fit: Fitted) -> int | None:
    match fit.says:
        case LinearProbe(weights=weights):
            return int(np.count_nonzero(weights))
        case ClassProbe(weights=weights):
            return int(np.count_nonzero(weights.any(axis=0)))
    return None


def held_out_table(bench: Bench, made: Made) -> pa.Table:
    """Rows of held_out.parquet."""
    keys: Table = bench.steps.table.iloc[made.places]
    columns: dict[str, Any] = {name: keys[name].to_numpy() for name in ("problem", "group", "split", "trace", "sample", "step")}
    same = {name: getattr(made.row, name) for name in ("task", "kind", "layer", "features", "model")}
    columns |= {name: [value] * len(keys) for name, value in same.items()}
    columns |= {"score": made.scores, "label": pa.array(made.labels, pa.float64(), from_pandas=True)}
    return pa.table({name: pa.array(columns[name], HELD_OUT.field(name).type) for name in HELD_OUT.names})


def weights_table(made: Made, features: FeatureSet) -> pa.Table:
    """Rows of weights.parquet; none of a probe that is not linear."""
    match made.fit.says:
        case LinearProbe(weights=weights, intercept=intercept):
            parts = [(None, weights, intercept)]
        case ClassProbe() as says:
            parts = [(made.classes[at], *one) for at, *one in zip(says.seen, says.weights, says.intercepts, strict=True)]
        case _:
            parts = []
    same = {name: getattr(made.row, name) for name in ("task", "features", "model")}
    names = None if features.columns is None else np.array([*features.columns, None], dtype=object)
    tables = []
    for of_class, weights, intercept in parts:
        columns = np.r_[-1, np.flatnonzero(weights)].astype(np.int32)
        told: dict[str, Any] = {**same, "class": of_class}
        arrays = [
            pa.array([told[name]] * len(columns), WEIGHTS.field(name).type) for name in ("task", "features", "model", "class")
        ]
        arrays += [pa.array(columns), pa.array([None] * len(columns) if names is None else names[columns], pa.string())]
        arrays += [pa.array(np.r_[intercept, weights[columns[1:]]], pa.float64())]
        tables.append(pa.Table.from_arrays(arrays, schema=WEIGHTS))
    return pa.concat_tables(tables) if tables else WEIGHTS.empty_table()
