"""Rule measure_ssae: how well one step-level SAE rebuilds the held-out steps of every stage."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch  # noqa: F401  # before the job starts, so that it can limit torch's threads

from workflow.devices import choose_device
from workflow.formats.step_sums import Written
from workflow.runtime import job
from workflow.ssae.measuring import measure_step_sae
from workflow.step_saes import stored_step_sae

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    model, facts = stored_step_sae(snakemake.input.ssae)
    device = choose_device(this.cfg["device"])
    this.note(device=str(device))
    folders = [Path(path).parent for path in snakemake.input.steps]
    measure_step_sae(
        model=model.to(device),
        every={Written(*at): folder for at, folder in zip(this.cfg["steps"], folders, strict=True)},
        sums=snakemake.output.sums,
        firings=snakemake.output.firings,
        manifest=snakemake.output.manifest,
        facts={**this.wildcards, "seed": int(this.wildcards["seed"]), "ssae": facts["digest"]},
    )
