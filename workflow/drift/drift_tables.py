"""Rule drift_tables: the tables of the study, with intervals by prompt, from all measurements."""

from typing import TYPE_CHECKING

import torch  # noqa: F401  # before the job starts, so that it can limit torch's threads

from workflow.config.drift import DriftConfig
from workflow.config.recipes import Recipe
from workflow.drift.tables import drift_tables
from workflow.formats.claim_columns import CLAIM_TABLES
from workflow.formats.drift_columns import TABLES
from workflow.runtime import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    drift_tables(
        sums=snakemake.input.sums,
        manifests=snakemake.input.manifests,
        latents=snakemake.input.latents,
        dictionaries=snakemake.input.dictionaries,
        lineages=snakemake.input.lineages,
        policies=snakemake.input.policies,
        tables={name: (snakemake.output[name], snakemake.output[f"{name}_csv"]) for name in TABLES | CLAIM_TABLES},
        manifest=snakemake.output.manifest,
        drift=DriftConfig(**this.cfg["drift"]),
        recipes={run: Recipe(**recipe) for run, recipe in this.cfg["runs"].items()},
    )
