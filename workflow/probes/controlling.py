"""Controls of a binary probe: labels dealt out anew, and pairs of steps that are alike in what gives labels away."""

from collections.abc import Callable, Iterator

import numpy as np

from workflow.formats.probe_columns import ProbeControl
from workflow.probes.folds import NotFittedError
from workflow.probes.measures import within_strata
from workflow.probes.measuring import Bench, Made, probe
from workflow.probes.sets import FeatureSet
from workflow.probes.steps import TEST, Steps
from workflow.probes.tasks import Task

QUARTILES = 4


def control_rows(bench: Bench, task: Task, features: FeatureSet, made: Made) -> Iterator[ProbeControl]:
    """All controls of one probe."""
    same = {**bench.place, "task": task.name, "features": features.name, "model": made.row.model}
    for repeat in range(bench.settings.permutations):
        dealt = task._replace(values=dealt_out(task, bench.steps, np.random.default_rng([bench.seed, repeat])))
        row, _ = probe(bench, dealt, features, made.recipe)
        yield ProbeControl(**same, control="permuted", repeat=repeat, steps=row.steps, auroc=row.auroc)
    table = bench.steps.table.iloc[made.places]
    inside = (table["split"].to_numpy(str) == TEST) & ~np.isnan(made.labels)
    for name, strata_of in STRATA.items():
        strata = strata_of(Steps(table))
        kept = inside & (strata >= 0)
        estimate = None
        if kept.any():
            groups = table["group"].to_numpy(str)[kept]
            found = within_strata(made.scores[kept], made.labels[kept], strata[kept], groups, bench.drawn)
            try:
                estimate = bench.drawn.estimate(found.auroc)
            except NotFittedError:
                estimate = None
        yield ProbeControl(**same, control=name, repeat=0, steps=int(kept.sum()), auroc=estimate)


def dealt_out(task: Task, steps: Steps, draw: np.random.Generator) -> np.ndarray:
    """The known labels of every split, those of a group of prompts together, laid over its steps in a random order of groups.

    Labels of neighbouring steps stay neighbours, so that they are as alike as the true ones.
    """
    values, groups = task.values.copy(), steps.groups
    for split in np.unique(steps.table["split"].to_numpy(str)):
        rows = steps.rows(split)
        rows = rows[task.known[rows]]
        blocks = [rows[groups[rows] == group] for group in np.unique(groups[rows])]
        if blocks:
            values[np.concatenate(blocks)] = np.concatenate([task.values[blocks[at]] for at in draw.permutation(len(blocks))])
    return values


def _length(steps: Steps) -> np.ndarray:
    """Quartile of the steps' tokens."""
    tokens = steps.table["tokens"].to_numpy(np.float64)
    return np.searchsorted(np.quantile(tokens, np.arange(1, QUARTILES) / QUARTILES), tokens) if len(tokens) else np.zeros(0, int)


def _place(steps: Steps) -> np.ndarray:
    return steps.table["step"].to_numpy(int)


def _before_error(steps: Steps) -> np.ndarray:
    """0 before and at the first error, −1 behind it or where that is unknown."""
    if "after_first_error" not in steps.table:
        return np.full(len(steps.table), -1)
    behind = steps.table["after_first_error"].astype("boolean").fillna(True).to_numpy(bool)
    return np.where(behind, -1, 0)


STRATA: dict[str, Callable[[Steps], np.ndarray]] = {"same_length": _length, "same_step": _place, "before_error": _before_error}
"""Stratum of each step, −1 for none."""
