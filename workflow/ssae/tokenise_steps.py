"""Rules tokenise_traces, tokenise_files: steps with their contexts as token ids, once for all that read them."""

from pathlib import Path
from typing import TYPE_CHECKING

from workflow.config.ssae_data import SsaeData
from workflow.config.ssae_training import SsaeLegacy
from workflow.model_sources import locate
from workflow.runtime import job
from workflow.ssae.forms import StepRules
from workflow.ssae.step_cache import step_cache

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    named = this.cfg["base_model"]
    facts = step_cache(
        source=snakemake.input.traces,
        tokenizer=locate(named, this.cfg["revision"]).folder if named else snakemake.input.model,
        rules=StepRules.of(SsaeData(**this.cfg["data"]), SsaeLegacy(**this.cfg["legacy"])),
        folder=Path(snakemake.output.steps).parent,
        key=this.key,
        policy=snakemake.input.policy,
    )
    this.note(steps=facts["steps"], skipped=facts["skipped"])
