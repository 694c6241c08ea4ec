"""The tables of step-level SAEs from all their measurements."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from workflow.drift.intervention_tables import Files, Stages, write_tables
from workflow.drift.step_rows import Cell, StepMeasurement, decomposition_rows, transfer_rows
from workflow.formats.manifest import read_manifest
from workflow.formats.parquet import read_table
from workflow.formats.step_columns import STEP_TABLES, StepDecomposition, StepTransfer
from workflow.formats.step_sums import ARTEFACT, STEP_SUMS


def step_tables(
    *, measured: Files, stages: Stages, bootstrap: Mapping[str, Any], tables: Mapping[str, tuple[Path | str, Path | str]],
    manifest: Path | str,
) -> None:  # fmt: skip
    """Write the tables ssae_transfer and ssae_decomposition, each as parquet and CSV.

    Args:
        measured: sums and manifest of every SSAE; one of base under the run `shared` is told in every run.
        stages: of every run.
        bootstrap: `replicates`, `confidence` and `seed`.
        tables: parquet and CSV file by table.
        manifest: manifest.json of the tables.

    Raises:
        ConfigError: sums and manifests do not go together, fewer than two problems, or a replicate is not finite.
    """
    transfers: list[StepTransfer] = []
    terms: list[StepDecomposition] = []
    for (run, text, seed), found in sorted(_gathered(measured, stages).items()):
        one, place = StepMeasurement(found, bootstrap), {"run": run, "text": text, "seed": seed}
        transfers += transfer_rows(one, place, dict(stages[run]))
        terms += decomposition_rows(one, place, stages[run])
    rows: dict[str, list] = {"ssae_transfer": transfers, "ssae_decomposition": terms}
    write_tables({name: (rows[name], STEP_TABLES[name], *tables[name]) for name in rows}, manifest, bootstrap)


def _gathered(measured: Files, stages: Stages) -> dict[tuple[str, str, int], dict[Cell, pd.DataFrame]]:
    """Sums by (run, text, seed), then by what they are of."""
    found: dict[tuple[str, str, int], dict[Cell, pd.DataFrame]] = defaultdict(dict)
    for sums, path in measured:
        facts, table = read_manifest(path, ARTEFACT), read_table(sums, STEP_SUMS).to_pandas()
        for run in [facts["run"]] if facts["run"] in stages else stages:
            written = table[(table["run"] == run) | ~table["run"].isin(list(stages))]  # its own, and what all runs share
            for (text, stage), frame in written.groupby(["text", "stage"]):
                found[run, str(text), facts["seed"]][Cell(facts["chain"], facts["stage"], str(stage))] = frame
    return found
