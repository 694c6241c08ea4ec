"""Rule solve_spliced: problems solved by one policy with its SAEs in the place of the rows of one layer."""

from typing import TYPE_CHECKING

import torch  # noqa: F401  # before the job starts, so that it can limit torch's threads

from workflow.formats.activations import RowFilter
from workflow.interventions.solving import Writing, solve_spliced
from workflow.interventions.splicing import SpliceCell
from workflow.runtime import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    at = this.wildcards
    solve_spliced(
        traces=snakemake.input.traces,
        traces_manifest=snakemake.input.traces_manifest,
        model=snakemake.input.model,
        shards=snakemake.input.stores,
        saes=dict(zip(this.cfg["saes"], snakemake.input.saes, strict=True)),
        sums=snakemake.output.sums,
        manifest=snakemake.output.manifest,
        cell=SpliceCell(
            run=at["run"], text=at["text"], kind=at["kind"], seed=int(at["seed"]), stage=at["stage"], layer=int(at["layer"])
        ),
        keep=RowFilter(**this.cfg["rows"]),
        ablated=this.cfg["ablations"],
        writing=Writing(**this.cfg["writing"]),
        **this.cfg["compute"],
        key=this.key,
        note=this.note,
    )
