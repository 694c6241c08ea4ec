"""Rule start_model: the start model of trained runs, fetched or linked, as a transformers directory."""

from typing import TYPE_CHECKING

from workflow.policies.start import materialise_start
from workflow.runtime import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    facts = materialise_start(
        model=snakemake.output.model,
        manifest=snakemake.output.manifest,
        source=this.cfg["policies"]["model"],
        revision=this.cfg["policies"]["revision"],
        key=this.key,
    )
    this.note(**facts)
