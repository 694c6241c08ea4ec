"""Rule splice: one policy with its SAEs in the place of the rows of one layer."""

from typing import TYPE_CHECKING

import torch  # noqa: F401  # before the job starts, so that it can limit torch's threads

from workflow.formats.activations import RowFilter
from workflow.interventions.inputs import Reading
from workflow.interventions.splicing import SpliceCell, splice
from workflow.runtime import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    at = this.wildcards
    splice(
        traces=snakemake.input.traces,
        traces_manifest=snakemake.input.traces_manifest,
        model=snakemake.input.model,
        shards=snakemake.input.stores,
        paired=snakemake.input.get("paired", []),
        saes=dict(zip(this.cfg["saes"], snakemake.input.saes, strict=True)),
        sums=snakemake.output.sums,
        manifest=snakemake.output.manifest,
        cell=SpliceCell(
            run=at["run"], text=at["text"], kind=at["kind"], seed=int(at["seed"]), stage=at["stage"], layer=int(at["layer"])
        ),
        keep=RowFilter(**this.cfg["rows"]),
        ablated=this.cfg["ablations"],
        reading=Reading(**this.cfg["reading"]),
        note=this.note,
    )
