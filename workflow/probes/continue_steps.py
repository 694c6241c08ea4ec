"""Rule continue_steps: how often a policy reaches the right answer from the end of each step of its pool."""

from typing import TYPE_CHECKING

import torch  # noqa: F401  # before the job starts, so that it can limit torch's threads

from workflow.probes.continuing import Continuing, continue_steps
from workflow.runtime import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    facts = continue_steps(
        traces=snakemake.input.traces,
        traces_manifest=snakemake.input.traces_manifest,
        model=snakemake.input.model,
        values=snakemake.output.labels,
        manifest=snakemake.output.manifest,
        settings=Continuing(**this.cfg["value"]),
        key=this.key,
        **this.cfg["compute"],
    )
    this.note(**facts)
