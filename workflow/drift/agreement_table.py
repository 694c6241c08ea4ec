"""Rule agreement_table: how far crosscoders and chains of SAEs agree."""

from typing import TYPE_CHECKING

from workflow.drift.agreement_tables import agreement_table
from workflow.runtime import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake):
    agreement_table(
        agreements=snakemake.input.agreements,
        parquet=snakemake.output.agreement,
        csv=snakemake.output.agreement_csv,
        manifest=snakemake.output.manifest,
    )
