"""Rule splice_tables: the tables splice and outputs, with intervals by prompt."""

from typing import TYPE_CHECKING

from workflow.drift.intervention_tables import splice_tables
from workflow.formats.intervention_columns import SPLICE_TABLES
from workflow.runtime import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    given = snakemake.input
    splice_tables(
        splices=list(zip(given.splice_sums, given.splices, strict=True)),
        outputs=list(zip(given.outputs_sums, given.outputs, strict=True)),
        stages={run: [(name, update) for name, update in stages] for run, stages in this.cfg["stages"].items()},
        bootstrap=this.cfg["bootstrap"],
        tables={name: (snakemake.output[name], snakemake.output[f"{name}_csv"]) for name in SPLICE_TABLES},
        manifest=snakemake.output.manifest,
    )
