"""Rule ssae_latents: the table of single latents of step-level SAEs, with tests by problem."""

from typing import TYPE_CHECKING

import torch  # noqa: F401  # before the job starts, so that it can limit torch's threads

from workflow.config.drift import DriftConfig
from workflow.drift.step_latents import step_latent_table
from workflow.runtime import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    step_latent_table(
        measured=list(zip(snakemake.input.firings, snakemake.input.measured, strict=True)),
        stages={run: [(name, update) for name, update in stages] for run, stages in this.cfg["stages"].items()},
        drift=DriftConfig(**this.cfg["drift"]),
        table=(snakemake.output.ssae_latents, snakemake.output.ssae_latents_csv),
        manifest=snakemake.output.manifest,
    )
