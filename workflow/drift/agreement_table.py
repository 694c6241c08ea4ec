"""Rule agreement_table: latents of crosscoders beside those of the chains of SAEs, and how far both agree."""

from typing import TYPE_CHECKING

import torch  # noqa: F401  # before the job starts, so that it can limit torch's threads

from workflow.drift.agreement_tables import agreement_table
from workflow.runtime import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    agreement_table(
        crosscoders=snakemake.input.crosscoders,
        told=snakemake.input.told,
        measurements=snakemake.input.measurements,
        chains=snakemake.input.chains,
        saes=snakemake.input.saes,
        matches=snakemake.output.matches,
        parquet=snakemake.output.agreement,
        csv=snakemake.output.agreement_csv,
        manifest=snakemake.output.manifest,
        min_cosine=this.cfg["ancestor_cosine"],
    )
