"""Rule sample_traces: solutions sampled from a policy, or decoded greedily, split into steps and graded."""

from typing import TYPE_CHECKING

from workflow.config.prompts import PromptsConfig
from workflow.runtime import job
from workflow.traces.solving import SolvingSettings, sample_traces

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    facts = sample_traces(
        problems=snakemake.input.problems,
        model=snakemake.input.model,
        stage=this.wildcards["stage"],
        traces=snakemake.output.traces,
        manifest=snakemake.output.manifest,
        settings=SolvingSettings(**this.cfg["traces"]),
        prompts=PromptsConfig(**this.cfg["prompts"]),
        key=this.key,
        **this.cfg["compute"],
    )
    this.note(**facts)
