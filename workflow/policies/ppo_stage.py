"""Rule ppo_stage: the policy after some more PPO updates, with the state that the next stage goes on from."""

from typing import TYPE_CHECKING

from workflow.config.policies import PpoConfig
from workflow.config.prompts import PromptsConfig
from workflow.policies.stage import make_stage
from workflow.runtime import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    facts = make_stage(
        base=snakemake.input.base,
        base_model=snakemake.input.base_model,
        problems=snakemake.input.problems,
        previous=snakemake.input.get("previous"),
        model=snakemake.output.model,
        training=snakemake.output.training,
        curve=snakemake.output.curve,
        manifest=snakemake.output.manifest,
        run=this.wildcards["run"],
        stage=this.wildcards["stage"],
        first_update=this.cfg["first_update"],
        last_update=this.cfg["last_update"],
        ppo=PpoConfig(**this.cfg["ppo"]),
        prompts=PromptsConfig(**this.cfg["prompts"]),
        compute=this.cfg["compute"],
        key=this.key,
    )
    this.note(**facts)
