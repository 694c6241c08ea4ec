"""Rule solving_tables: the table solving, with intervals by problem."""

from typing import TYPE_CHECKING

from workflow.drift.intervention_tables import solving_table
from workflow.runtime import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    solving_table(
        solved=list(zip(snakemake.input.sums, snakemake.input.solved, strict=True)),
        stages={run: [(name, update) for name, update in stages] for run, stages in this.cfg["stages"].items()},
        bootstrap=this.cfg["bootstrap"],
        table=(snakemake.output.solving, snakemake.output.solving_csv),
        manifest=snakemake.output.manifest,
    )
