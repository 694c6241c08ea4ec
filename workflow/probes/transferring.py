"""Probes of every stage on the steps of every other: does what tells a correct step move with the policy?"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from workflow.config.probe_fits import ProbeFitsConfig
from workflow.formats.files import file_digest
from workflow.formats.manifest import write_manifest
from workflow.formats.probe_columns import ProbeTransfer
from workflow.formats.probe_fits import Weights, read_weights
from workflow.formats.probe_scores import family
from workflow.formats.step_features import StepFeatures
from workflow.formats.table_files import arrow_table, write_parquet
from workflow.probes.cells import check_measurable
from workflow.probes.folds import NotFittedError
from workflow.probes.linear import L2, LinearProbe
from workflow.probes.measures import Draws, drawn_groups
from workflow.probes.scaling import Matrix
from workflow.probes.steps import TEST, Steps, check_same_steps, read_steps
from workflow.probes.tasks import BINARY, task
from workflow.ranking import ranking

DENSE, OWN, FROZEN = "dense", "own", "frozen"
BASE = "base"
Probes = dict[tuple[str, str, str], Weights]


class StageFiles(NamedTuple):
    """What one stage left at the layer."""

    stage: str
    labels: Path | str
    features: Path | str
    weights: Path | str


class _Tested(NamedTuple):
    """Test steps of one stage."""

    steps: Steps
    rows: np.ndarray
    groups: np.ndarray
    drawn: Draws


def transfer_probes(
    *, run: str, layer: int, stages: Sequence[StageFiles], parquet: Path | str, manifest: Path | str, settings: ProbeFitsConfig,
    bootstrap: Mapping[str, Any],
) -> None:  # fmt: skip
    """Write the rows of the table probe_transfer for one run and layer.

    Args:
        run: RL run.
        layer: layer.
        stages: in their order, base first where it is among them.
        parquet: the rows.
        manifest: manifest.json beside them.
        settings: of the fits.
        bootstrap: `replicates`, `confidence`, `seed` over groups of prompts of the split test, drawn alike at every stage.

    Raises:
        ConfigError: features of other steps than the labels, or an unknown task.
    """
    weights = {at.stage: read_weights(at.weights) for at in stages}
    rows = [row for at in stages for row in _on_stage(at, stages, weights, {"run": run, "layer": layer}, settings, bootstrap)]
    rows.sort(key=lambda row: (row.task, row.view, row.features))
    write_parquet(parquet, arrow_table(rows, ProbeTransfer))
    write_manifest(manifest, "probe_transfer", run=run, layer=layer, rows=len(rows), digest=file_digest(parquet))


def view_of(features: str, stage: str) -> list[tuple[str, str]]:
    """The views that a set of a stage belongs to, with the name that it has in them at every stage.

    At base the SAE of base is the stage's own one, so that its codes are in both views.
    """
    kind = family(features)
    if kind == "dense":
        return [(DENSE, features)]
    if kind != "sae":
        return []
    if features.startswith("base_sae."):
        return [(FROZEN, features)]
    return [(OWN, features), *([(FROZEN, f"base_{features}")] if stage == BASE else [])]


def _on_stage(
    at: StageFiles, stages: Sequence[StageFiles], weights: Mapping[str, Probes], place: Mapping[str, Any],
    settings: ProbeFitsConfig, bootstrap: Mapping[str, Any],
) -> Iterator[ProbeTransfer]:  # fmt: skip
    steps = read_steps(at.labels)
    rows = steps.rows(TEST)
    groups = steps.group_names[rows]
    tested = _Tested(steps, rows, groups, drawn_groups(groups, bootstrap))
    with StepFeatures(at.features) as opened:
        check_same_steps(opened, steps.table)
        for name in opened.names:
            for view, common in view_of(name, at.stage):
                fits = {
                    (other.stage, key[0]): found
                    for other in stages
                    for key, found in weights[other.stage].items()
                    if key[2] == L2 and (view, common) in view_of(key[1], other.stage)
                }
                if len({stage for stage, _ in fits}) > 1:
                    told = {**place, "stage": at.stage, "view": view, "features": name}
                    yield from _tested_on(opened.matrix(name)[steps.places][rows], fits, tested, told, settings)


def _tested_on(
    matrix: Matrix, fits: Mapping[tuple[str, str], Weights], tested: _Tested, told: Mapping[str, Any],
    settings: ProbeFitsConfig,
) -> Iterator[ProbeTransfer]:  # fmt: skip
    for name in settings.tasks:
        asked = task(name, tested.steps.table, settings.thresholds)
        if asked.kind != BINARY:
            continue
        present = np.isfinite(matrix).all(axis=1) if isinstance(matrix, np.ndarray) else np.ones(matrix.shape[0], bool)
        usable = np.flatnonzero(asked.known[tested.rows] & present)
        labels, groups = asked.values[tested.rows][usable], tested.groups[usable]
        prompts = tested.steps.table["problem"].iloc[tested.rows[usable]].nunique()
        try:
            check_measurable(BINARY, labels, groups, settings.min_problems)
        except NotFittedError:
            continue
        places = tested.drawn.index(groups)
        found = {
            stage: ranking(_probe(kept, matrix.shape[1])(matrix[usable]), labels == 1, places, tested.drawn.weights).auroc
            for (stage, task_name), kept in fits.items()
            if task_name == name
        }
        own = found.get(told["stage"])
        for stage, auroc in found.items():
            try:
                excess = None if own is None else tested.drawn.estimate(auroc - own)
                yield ProbeTransfer(
                    **told, task=name, fit_stage=stage, steps=len(usable), prompts=prompts,
                    auroc=tested.drawn.estimate(auroc), excess=excess,
                )  # fmt: skip
            except NotFittedError:
                continue


def _probe(kept: Weights, width: int) -> LinearProbe:
    return LinearProbe(kept.matrix(width)[0], float(kept.intercepts[0]))
