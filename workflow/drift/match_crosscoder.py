"""Rule match_crosscoder: latents of crosscoders beside those of one chain of SAEs."""

from typing import TYPE_CHECKING

import torch  # noqa: F401  # before the job starts, so that it can limit torch's threads

from workflow.drift.agreeing import match_crosscoders
from workflow.drift.inputs import Cell
from workflow.runtime import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    at = this.wildcards
    match_crosscoders(
        crosscoders=snakemake.input.crosscoders,
        told=snakemake.input.told,
        saes=snakemake.input.saes,
        chain=snakemake.input.chain,
        matches=snakemake.output.matches,
        agreement=snakemake.output.agreement,
        manifest=snakemake.output.manifest,
        cell=Cell(at["run"], at["text"], at["kind"], int(at["seed"]), int(at["layer"])),
        min_cosine=this.cfg["ancestor_cosine"],
    )
