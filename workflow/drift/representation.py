"""Rule representation: how alike the rows of every two stages are, before any SAE."""

from typing import TYPE_CHECKING

import torch  # noqa: F401  # before the job starts, so that it can limit torch's threads

from workflow.config.joint import RepresentationConfig
from workflow.drift.representing import Scope, measure_representation
from workflow.formats.activations import RowFilter
from workflow.runtime import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    at = this.wildcards
    measure_representation(
        stores=snakemake.input.stores,
        saes=snakemake.input.saes,
        sums=snakemake.output.sums,
        manifest=snakemake.output.manifest,
        scope=Scope(
            run=at["run"],
            text=at["text"],
            layer=int(at["layer"]),
            stages=[(name, update) for name, update in this.cfg["stages"]],
            keep=RowFilter(**this.cfg["rows"]),
            settings=RepresentationConfig(**this.cfg["representation"]),
        ),
        device=this.cfg["compute"]["device"],
        key=this.key,
        note=this.note,
    )
