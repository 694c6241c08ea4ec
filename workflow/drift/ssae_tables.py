"""Rule ssae_tables: the tables of step-level SAEs, with intervals by problem."""

from typing import TYPE_CHECKING

from workflow.drift.step_tables import step_tables
from workflow.formats.step_columns import STEP_TABLES
from workflow.runtime import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    step_tables(
        measured=list(zip(snakemake.input.sums, snakemake.input.measured, strict=True)),
        stages={run: [(name, update) for name, update in stages] for run, stages in this.cfg["stages"].items()},
        bootstrap=this.cfg["bootstrap"],
        tables={name: (snakemake.output[name], snakemake.output[f"{name}_csv"]) for name in STEP_TABLES},
        manifest=snakemake.output.manifest,
    )
