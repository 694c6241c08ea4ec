"""Rule label_n2g: names for latents by another language model."""

from typing import TYPE_CHECKING

from workflow.config.endpoint import EndpointConfig
from workflow.n2g.labelling import label_latents
from workflow.runtime import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    facts = label_latents(
        graphs=[snakemake.input.manifest], labels=[snakemake.output.labels], settings=EndpointConfig(**this.cfg["labels"])
    )
    this.note(**facts)
