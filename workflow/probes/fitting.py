"""All probes of one place: a layer of one stage, or the feature sets that are of no layer."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from workflow.config.probe_fits import ProbeFitsConfig
from workflow.formats.files import file_digest
from workflow.formats.manifest import write_manifest
from workflow.formats.probe_columns import Probe, ProbeControl
from workflow.formats.probe_fits import ARTEFACT, HELD_OUT, WEIGHTS, Stream
from workflow.formats.step_features import StepFeatures
from workflow.formats.table_files import arrow_table, write_parquet
from workflow.probes.cells import recipes
from workflow.probes.controlling import control_rows
from workflow.probes.linear import PREVALENCE, Recipe
from workflow.probes.measures import drawn_groups
from workflow.probes.measuring import Bench, Made, held_out_table, probe, weights_table
from workflow.probes.sets import FeatureSet, FeatureSets, is_baseline
from workflow.probes.steps import TEST, TRAIN, VAL, Steps, read_steps
from workflow.probes.tasks import BINARY, Task, task

log = logging.getLogger(__name__)
NONE = "none"


def fit_probes(
    *, run: str, stage: str, layer: int | None, labels: Path | str, features: Path | str, codes: Mapping[str, Path | str],
    files: Mapping[str, str], manifest: Path | str, settings: ProbeFitsConfig, bootstrap: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Fit every task to every feature set of one place with every model that suits, and measure it; facts for provenance.

    Args:
        run: RL run, or `shared`.
        stage: stage whose policy wrote the steps.
        layer: layer of the features; None for the sets that are of none.
        labels: labels.parquet.
        features: features.h5 of the layer; without one, that of any layer.
        codes: step codes by set name.
        files: the parquet files of `probe_fits.FILES`, by name.
        manifest: manifest.json beside them.
        settings: of the fits.
        bootstrap: `replicates`, `confidence`, `seed` over groups of prompts of the split test.

    Raises:
        ConfigError: a prompt in two splits, features of other steps, or an unknown task or set.
    """
    steps = read_steps(labels)
    place = {"run": run, "stage": stage, "layer": layer}
    bench = Bench(place, steps, drawn_groups(steps.group_names[steps.rows(TEST)], bootstrap), settings, bootstrap["seed"])
    tasks = [task(name, steps.table, settings.thresholds) for name in settings.tasks]
    rows: list[Probe] = []
    best: dict[tuple[str, bool], Made] = {}
    widths: dict[str, int] = {}
    with StepFeatures(features) as opened, Stream(files["held_out"], HELD_OUT) as held, Stream(files["weights"], WEIGHTS) as kept:
        sets = FeatureSets(steps, opened, codes, layered=layer is not None, wanted=settings.sets, most_words=settings.most_words)
        for name in [*([NONE] if layer is None else []), *sets.names]:
            one = _nothing(steps) if name == NONE else sets.read(name)
            widths[name] = one.rows.shape[1]
            for asked in tasks:
                for recipe in [Recipe(PREVALENCE)] if name == NONE else recipes(asked.kind, one, settings):
                    row, made = probe(bench, asked, one, recipe)
                    rows.append(row)
                    if made is not None:
                        held.add(held_out_table(bench, made))
                        kept.add(weights_table(made, one))
                        _keep_best(best, made)
            log.info("fitted %s: %d of %d cells so far", name, sum(row.not_fitted is None for row in rows), len(rows))
        controls = list(_controls(bench, tasks, sets, best))
    write_parquet(files["probes"], arrow_table(rows, Probe))
    write_parquet(files["controls"], arrow_table(controls, ProbeControl))
    digests = {name: file_digest(path) for name, path in files.items()}
    write_manifest(manifest, ARTEFACT, **place, widths=widths, digests=digests)
    counts = {split: len(steps.rows(split)) for split in (TRAIN, VAL, TEST)}
    return {"steps": counts, "cells": len(rows), "not_fitted": sum(row.not_fitted is not None for row in rows)}


def _keep_best(best: dict[tuple[str, bool], Made], made: Made) -> None:
    """The probe of each task that validates best, among SAE codes and among all else."""
    key = (made.row.task, is_baseline(made.row.features))
    validation = made.fit.validation
    if made.row.kind == BINARY and made.row.features != NONE and (key not in best or validation > best[key].fit.validation):
        best[key] = made


def _controls(bench: Bench, tasks: Sequence[Task], sets: FeatureSets, best: Mapping[tuple[str, bool], Made]) -> Any:
    for asked in tasks:
        for baseline in (False, True):
            if (made := best.get((asked.name, baseline))) is not None:
                yield from control_rows(bench, asked, sets.read(made.row.features), made)


def _nothing(steps: Steps) -> FeatureSet:
    count = len(steps.table)
    return FeatureSet(NONE, csr_array((count, 1)), np.ones(count, bool), None)
