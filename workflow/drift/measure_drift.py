"""Rule measure_drift: sums per prompt of every SAE on every store it is needed on, and what became of every latent."""

from typing import TYPE_CHECKING

import torch  # noqa: F401  # before the job starts, so that it can limit torch's threads

from workflow.config.drift import DriftConfig
from workflow.drift.inputs import Cell
from workflow.drift.measuring import Scope, measure_drift
from workflow.formats.activations import RowFilter
from workflow.runtime import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    at = this.wildcards
    measure_drift(
        stores=snakemake.input.stores,
        saes=snakemake.input.saes,
        sums=snakemake.output.sums,
        tables={name: snakemake.output[name] for name in ("latents", "dictionary", "lineage")},
        manifest=snakemake.output.manifest,
        scope=Scope(
            cell=Cell(run=at["run"], text=at["text"], kind=at["kind"], seed=int(at["seed"]), layer=int(at["layer"])),
            stages=[(name, update) for name, update in this.cfg["stages"]],
            chains=this.cfg["chains"],
            keep=RowFilter(**this.cfg["rows"]),
            drift=DriftConfig(**this.cfg["drift"]),
        ),
        device=this.cfg["compute"]["device"],
        backend=this.cfg["compute"]["backend"],
        key=this.key,
        note=this.note,
    )
