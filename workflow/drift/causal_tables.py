"""Rule causal_tables: the table causal, with intervals by prompt."""

from typing import TYPE_CHECKING

from workflow.drift.intervention_tables import causal_table
from workflow.runtime import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    causal_table(
        checks=list(zip(snakemake.input.sums, snakemake.input.checks, strict=True)),
        stages={run: [(name, update) for name, update in stages] for run, stages in this.cfg["stages"].items()},
        bootstrap=this.cfg["bootstrap"],
        table=(snakemake.output.causal, snakemake.output.causal_csv),
        manifest=snakemake.output.manifest,
    )
