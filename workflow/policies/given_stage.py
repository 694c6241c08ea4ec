"""Rule given_stage: one stage of an existing RL run, linked, or merged from a base and an adapter."""

from typing import TYPE_CHECKING

from workflow.config.policies import GivenStage
from workflow.policies.given import materialise_given
from workflow.runtime import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    facts = materialise_given(
        model=snakemake.output.model,
        manifest=snakemake.output.manifest,
        base=snakemake.input.get("base"),
        run=this.wildcards["run"],
        given=GivenStage(**this.cfg["given"]),
        key=this.key,
    )
    this.note(**facts)
