"""Rule causal: what the latents of one (run, text, kind, seed, layer) that turned most cause, beside others."""

from typing import TYPE_CHECKING

import torch  # noqa: F401  # before the job starts, so that it can limit torch's threads

from workflow.formats.activations import RowFilter
from workflow.interventions.causing import Plan, check_causes
from workflow.interventions.inputs import Reading
from workflow.runtime import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    at = this.wildcards
    check_causes(
        traces=snakemake.input.traces,
        traces_manifest=snakemake.input.traces_manifest,
        model=snakemake.input.model,
        base=snakemake.input.base,
        shards=snakemake.input.stores,
        paired=snakemake.input.get("paired", []),
        saes={"real": snakemake.input.real, "null": snakemake.input.null, "base": snakemake.input.base_sae},
        sums=snakemake.output.sums,
        manifest=snakemake.output.manifest,
        cell={
            "run": at["run"],
            "text": at["text"],
            "kind": at["kind"],
            "seed": int(at["seed"]),
            "layer": int(at["layer"]),
        },
        keep=RowFilter(**this.cfg["rows"]),
        plan=Plan(**this.cfg["plan"]),
        reading=Reading(**this.cfg["reading"]),
        note=this.note,
    )
