"""Rule crosscoder_table: what all crosscoders say of every later stage."""

from typing import TYPE_CHECKING

from workflow.drift.crosscoder_tables import crosscoder_table
from workflow.runtime import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake):
    crosscoder_table(
        stages=snakemake.input.stages,
        policies=snakemake.input.policies,
        parquet=snakemake.output.crosscoder,
        csv=snakemake.output.crosscoder_csv,
        manifest=snakemake.output.manifest,
    )
