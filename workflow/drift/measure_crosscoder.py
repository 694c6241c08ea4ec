"""Rule measure_crosscoder: classes of the latents of one crosscoder at every stage, with intervals by prompt."""

from typing import TYPE_CHECKING

import torch  # noqa: F401  # before the job starts, so that it can limit torch's threads

from workflow.config.drift import DriftConfig
from workflow.drift.crosscoder_counts import measure_crosscoder
from workflow.formats.activations import RowFilter
from workflow.runtime import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    measure_crosscoder(
        crosscoder=snakemake.input.manifest,
        stores=snakemake.input.stores,
        stages=snakemake.output.stages,
        latents=snakemake.output.latents,
        manifest=snakemake.output.manifest,
        keep=RowFilter(**this.cfg["rows"]),
        drift=DriftConfig(**this.cfg["drift"]),
        device=this.cfg["compute"]["device"],
        note=this.note,
    )
