"""Rule representation_table: how alike the rows of two stages are, from all its measurements, with intervals by prompt."""

from typing import TYPE_CHECKING

from workflow.drift.representation_tables import representation_table
from workflow.runtime import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    representation_table(
        sums=snakemake.input.sums,
        manifests=snakemake.input.manifests,
        policies=snakemake.input.policies,
        parquet=snakemake.output.representation,
        csv=snakemake.output.representation_csv,
        manifest=snakemake.output.manifest,
        confidence=this.cfg["confidence"],
    )
