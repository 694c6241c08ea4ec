"""Rule mine_n2g: token patterns of some latents of the SAE of one (run, text, kind, seed, layer, stage), with their scores."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch  # noqa: F401  # before the job starts, so that it can limit torch's threads

from workflow.config.n2g import N2gConfig
from workflow.formats.activations import RowFilter
from workflow.n2g.explaining import Cell, Machine, explain_latents
from workflow.runtime import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    at = this.wildcards
    explain_latents(
        policy=snakemake.input.policy,
        model=snakemake.input.model,
        mined=snakemake.input.mined,
        held_out=snakemake.input.held_out,
        sae=snakemake.input.sae,
        changes=snakemake.input.get("changes"),
        folder=Path(snakemake.output.manifest).parent,
        cell=Cell(at["run"], at["text"], at["kind"], int(at["seed"]), int(at["layer"]), at["stage"]),
        last_stage=this.cfg["last_stage"],
        keep=RowFilter(**this.cfg["rows"]),
        settings=N2gConfig(**this.cfg["n2g"]),
        bootstrap=this.cfg["bootstrap"],
        machine=Machine(**this.cfg["machine"]),
        key=this.key,
        note=this.note,
    )
