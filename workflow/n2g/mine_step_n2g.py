"""Rule mine_step_n2g: patterns of the latents of one step-level SAE, mined in steps of the split train, scored on those of test."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch  # noqa: F401  # before the job starts, so that it can limit torch's threads

from workflow.config.n2g import StepN2gConfig
from workflow.devices import choose_device
from workflow.formats.step_saes import BASE
from workflow.formats.steps import StepStore
from workflow.n2g.step_mining import explain_step_latents
from workflow.n2g.step_parts import Part
from workflow.n2g.vocabulary import vocabulary
from workflow.runtime import job
from workflow.step_saes import stored_step_sae
from workflow.step_tokens import step_tokenizer

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    at, manifest = this.wildcards, Path(snakemake.input.ssae)
    model, facts = stored_step_sae(manifest)
    device = choose_device(this.cfg["device"])
    tokenizer = step_tokenizer(manifest.with_name(BASE), double_bos="double_bos" in facts["legacy"])
    this.note(device=str(device))
    with StepStore(snakemake.input.steps_bulk) as store:
        split = store.of_step("split")
        mined, held_out = (Part(store, np.flatnonzero(split == name)) for name in (b"train", b"test"))
        explain_step_latents(
            model=model.to(device), tokenizer=tokenizer, mined=mined, held_out=held_out,
            vocabulary=vocabulary(tokenizer.tokenizer, tokenizer.vocab), folder=Path(snakemake.output.manifest).parent,
            place={**at, "seed": int(at["seed"])}, facts={"ssae": facts["digest"]}, settings=StepN2gConfig(**this.cfg["steps"]),
            bootstrap=this.cfg["bootstrap"], seed=this.cfg["seed"], note=this.note,
        )  # fmt: skip
