"""Rule measure_ssae: how well one step-level SAE rebuilds the held-out steps of every stage."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch  # noqa: F401  # before the job starts, so that it can limit torch's threads

from workflow.devices import choose_device
from workflow.formats.step_saes import BASE, read_step_tensors
from workflow.runtime import job
from workflow.ssae.measuring import Steps, measure_step_sae
from workflow.step_saes import filled_step_sae

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    at, manifest = this.wildcards, Path(snakemake.input.ssae)
    found, facts = read_step_tensors(manifest)
    device = choose_device(this.cfg["device"])
    this.note(device=str(device))
    folders = [Path(path).parent for path in snakemake.input.steps]
    measure_step_sae(
        model=filled_step_sae(found, manifest.with_name(BASE)).to(device),
        every=[Steps(run, text, stage, folder) for (run, text, stage), folder in zip(this.cfg["steps"], folders, strict=True)],
        sums=snakemake.output.sums,
        manifest=snakemake.output.manifest,
        facts={**at, "seed": int(at["seed"]), "ssae": facts["digest"]},
    )
