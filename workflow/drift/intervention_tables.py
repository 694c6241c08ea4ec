"""The tables of interventions: splice and outputs from all splices and comparisons, solving and causal from their own jobs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workflow.drift.causal_rows import causal_rows
from workflow.drift.solving_rows import solving_rows
from workflow.drift.splice_rows import PromptBootstrap, outputs_row, splice_rows
from workflow.formats.drift import BASE
from workflow.formats.files import file_digest
from workflow.formats.intervention_columns import SPLICE_TABLES, Causal, Solving
from workflow.formats.interventions import CAUSAL, OUTPUTS, SOLVING, SPLICE
from workflow.formats.manifest import read_manifest, write_manifest
from workflow.formats.parquet import read_table
from workflow.formats.table_files import arrow_table, write_csv, write_parquet

Files = Sequence[tuple[Path | str, Path | str]]
"""Sums and manifest of each."""
Stages = Mapping[str, Sequence[tuple[str, int]]]
"""(name, PPO updates) of the stages of every run, base first."""


def splice_tables(
    *, splices: Files, outputs: Files, stages: Stages, bootstrap: Mapping[str, Any],
    tables: Mapping[str, tuple[Path | str, Path | str]], manifest: Path | str,
) -> None:  # fmt: skip
    """Write the tables splice and outputs, each as parquet and CSV.

    Args:
        splices: of all runs; one of base under the run `shared` is told in every run.
        outputs: comparisons of all policies behind base.
        stages: of every run.
        bootstrap: `replicates`, `confidence` and `seed`.
        tables: parquet and CSV file by table.
        manifest: manifest.json of the tables.

    Raises:
        ConfigError: sums and manifests do not go together, fewer than two prompts, or a replicate is not finite.
    """
    rows: dict[str, list] = {"splice": [], "outputs": []}
    updates = {(run, stage): update for run, those in stages.items() for stage, update in those}
    for sums, path in splices:
        facts, table = read_manifest(path, "splice"), read_table(sums, SPLICE).to_pandas()
        drawn = PromptBootstrap(len(facts["problems"]), **bootstrap)
        for run in [facts["run"]] if facts["run"] in stages else stages:
            stage = facts["stage"]
            rows["splice"] += splice_rows(
                run=run, stage=stage, update=updates[run, stage], facts=facts, table=table, bootstrap=drawn
            )
    for sums, path in outputs:
        facts, table = read_manifest(path, "outputs"), read_table(sums, OUTPUTS).to_pandas()
        drawn = PromptBootstrap(len(facts["problems"]), **bootstrap)
        rows["outputs"].append(outputs_row(updates[facts["run"], facts["stage"]], facts, table, drawn))
    rows["splice"].sort(key=lambda row: (row.run, row.text, row.kind, row.seed, row.layer, row.update, row.sae_stage == BASE))
    write_tables({name: (rows[name], SPLICE_TABLES[name], *tables[name]) for name in rows}, manifest, bootstrap)


def solving_table(
    *, solved: Files, stages: Stages, bootstrap: Mapping[str, Any], table: tuple[Path | str, Path | str], manifest: Path | str
) -> None:
    """Write the table solving as parquet and CSV.

    Args:
        solved: answers and manifest of every policy; those of base under the run `shared` are told in every run.
        stages: of every run.
        bootstrap: `replicates`, `confidence` and `seed`.
        table: parquet and CSV file.
        manifest: manifest.json of the table.

    Raises:
        ConfigError: as `splice_tables`.
    """
    rows: list[Solving] = []
    for answers, path in solved:
        facts, found = read_manifest(path, "solving"), read_table(answers, SOLVING).to_pandas()
        drawn = PromptBootstrap(len(facts["problems"]), **bootstrap)
        for run in [facts["run"]] if facts["run"] in stages else stages:
            update = dict(stages[run])[facts["stage"]]
            rows += solving_rows(run=run, update=update, facts=facts, table=found, bootstrap=drawn)
    rows.sort(key=lambda row: (row.run, row.text, row.kind, row.seed, row.layer, row.update, row.sae_stage == BASE))
    write_tables({"solving": (rows, Solving, *table)}, manifest, bootstrap)


def causal_table(
    *, checks: Files, stages: Stages, bootstrap: Mapping[str, Any], table: tuple[Path | str, Path | str], manifest: Path | str
) -> None:
    """Write the table causal as parquet and CSV.

    Args:
        checks: sums and manifest of every causal check.
        stages: of every run.
        bootstrap: `replicates`, `confidence` and `seed`.
        table: parquet and CSV file.
        manifest: manifest.json of the table.

    Raises:
        ConfigError: as `splice_tables`.
    """
    rows: list[Causal] = []
    for sums, path in checks:
        facts, found = read_manifest(path, "causal"), read_table(sums, CAUSAL).to_pandas()
        update = dict(stages[facts["run"]])[facts["stage"]]
        rows += causal_rows(update, facts, found, PromptBootstrap(len(facts["problems"]), **bootstrap))
    write_tables({"causal": (rows, Causal, *table)}, manifest, bootstrap)


def write_tables(
    tables: Mapping[str, tuple[list, type, Path | str, Path | str]], manifest: Path | str, bootstrap: Mapping[str, Any]
) -> None:
    """Write (rows, class, parquet, CSV) by name, and a manifest that describes them."""
    described = {}
    for name, (rows, kind, parquet, text) in tables.items():
        table = arrow_table(rows, kind)
        write_parquet(parquet, table)
        described[name] = {"rows": len(table), "columns": table.column_names, "csv_complete": write_csv(text, table)}
        described[name]["digest"] = file_digest(parquet)
    write_manifest(manifest, "intervention_tables", tables=described, bootstrap=dict(bootstrap))
