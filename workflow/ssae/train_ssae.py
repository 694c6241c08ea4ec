"""Rule train_ssae: one step-level SAE, trained or taken as it is."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch  # noqa: F401  # before the job starts, so that it can limit torch's threads

from workflow.config.ssae import SsaeConfig
from workflow.runtime import job
from workflow.ssae.making import Place, make_step_sae

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    told = make_step_sae(
        place=Place(**{**this.wildcards, "seed": int(this.wildcards["seed"])}),
        steps=snakemake.input.get("steps"),
        valid=snakemake.input.get("valid"),
        policy=snakemake.input.model,
        warm=snakemake.input.get("warm"),
        folder=Path(snakemake.output.manifest).parent,
        settings=SsaeConfig(**this.cfg["ssae"]),
        device=this.cfg["device"],
        key=this.key,
    )
    this.note(**told)
