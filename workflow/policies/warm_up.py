"""Rule warm_up: the stage `base`, the start model after a few supervised steps on reference solutions."""

from typing import TYPE_CHECKING

from workflow.config.policies import WarmupConfig
from workflow.config.prompts import PromptsConfig
from workflow.policies.base import make_base
from workflow.runtime import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    facts = make_base(
        start=snakemake.input.start,
        start_model=snakemake.input.model,
        problems=snakemake.input.problems,
        model=snakemake.output.model,
        manifest=snakemake.output.manifest,
        curve=snakemake.output.curve,
        warmup=WarmupConfig(**this.cfg["warmup"]),
        lora=this.cfg["lora"],
        prompts=PromptsConfig(**this.cfg["prompts"]),
        compute=this.cfg["compute"],
        key=this.key,
    )
    this.note(**facts)
