"""Rule fixed_text: reference solutions as traces, the text set `fixed`."""

from typing import TYPE_CHECKING

from workflow.config.prompts import PromptsConfig
from workflow.runtime import job
from workflow.traces.reference import fixed_text

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    facts = fixed_text(
        problems=snakemake.input.problems,
        model=snakemake.input.model,
        traces=snakemake.output.traces,
        manifest=snakemake.output.manifest,
        prompts=PromptsConfig(**this.cfg["prompts"]),
    )
    this.note(**facts)
