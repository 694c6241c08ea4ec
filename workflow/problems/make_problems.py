"""Rule make_problems: one table of distinct questions with known answers, split by problem."""

from typing import TYPE_CHECKING

from workflow.config.problems import ProblemsConfig
from workflow.problems.building import build_problems
from workflow.runtime import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    facts = build_problems(
        settings=ProblemsConfig(**this.cfg["problems"]),
        problems=snakemake.output.problems,
        manifest=snakemake.output.manifest,
        source=snakemake.input.get("source"),
    )
    this.note(**facts)
