"""Rule judge_steps: verdicts of another language model on every step of a pool."""

from typing import TYPE_CHECKING

from workflow.config.probes import JudgeConfig
from workflow.probes.judging import judge_steps
from workflow.runtime import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    facts = judge_steps(
        traces=snakemake.input.traces,
        traces_manifest=snakemake.input.traces_manifest,
        problems=snakemake.input.problems,
        model=snakemake.input.model,
        verdicts=snakemake.output.labels,
        manifest=snakemake.output.manifest,
        settings=JudgeConfig(**this.cfg["judge"]),
        key=this.key,
    )
    this.note(**facts)
