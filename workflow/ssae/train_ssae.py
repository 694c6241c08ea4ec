"""Rule train_ssae: one step-level SAE, trained or taken as it is."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch  # noqa: F401  # before the job starts, so that it can limit torch's threads

from workflow.config.ssae import SsaeConfig
from workflow.formats.manifest import read_manifest
from workflow.formats.steps import ARTEFACT
from workflow.model_sources import locate
from workflow.runtime import job
from workflow.ssae.adopting import adopt_step_sae
from workflow.ssae.training import train_step_sae
from workflow.step_sources import locate_step_sae

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    settings, given = SsaeConfig(**this.cfg["ssae"]), snakemake.input.get("warm")
    base = Path(snakemake.input.model)
    if settings.base_model:
        base = locate(settings.base_model, settings.revision).folder
    if given is None and settings.source != "fresh" and this.wildcards["stage"] == "base":
        found = locate_step_sae(str(settings.given.model), file=settings.given.file, revision=settings.given.revision)
        given = found.path
        this.note(given=str(found.path), given_revision=found.revision)
    folder = Path(snakemake.output.manifest).parent
    if given is not None and settings.source == "given" and this.wildcards["stage"] == "base":
        adopt_step_sae(given=given, base=base, folder=folder, legacy=settings.legacy)
    else:
        told = train_step_sae(
            steps=snakemake.input.steps_bulk, valid=snakemake.input.get("valid_bulk"), base=base, given=given, folder=folder,
            settings=settings, seed=int(this.wildcards["seed"]), device=this.cfg["device"], key=this.key,
            steps_digest=read_manifest(snakemake.input.steps, ARTEFACT)["digest"],
        )  # fmt: skip
        this.note(**told)
