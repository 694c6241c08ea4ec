"""Rule encode_ssae: the codes of a set of traces' reasoning steps by one step-level SAE."""

from typing import TYPE_CHECKING

import torch  # noqa: F401  # before the job starts, so that it can limit torch's threads

from workflow.runtime import job
from workflow.ssae.coding import code_steps

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    told = code_steps(
        ssae=snakemake.input.ssae,
        steps=snakemake.input.steps,
        codes=snakemake.output.codes,
        manifest=snakemake.output.manifest,
        device=this.cfg["device"],
        place={**this.wildcards, "seed": int(this.wildcards["seed"])},
    )
    this.note(**told)
