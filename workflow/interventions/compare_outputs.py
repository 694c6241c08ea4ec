"""Rule compare_outputs: what a policy predicts beside what base predicts, on the same texts."""

from typing import TYPE_CHECKING

import torch  # noqa: F401  # before the job starts, so that it can limit torch's threads

from workflow.interventions.inputs import Reading
from workflow.interventions.outputs import compare_outputs
from workflow.runtime import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    compare_outputs(
        traces=snakemake.input.traces,
        traces_manifest=snakemake.input.traces_manifest,
        model=snakemake.input.model,
        base=snakemake.input.base,
        sums=snakemake.output.sums,
        manifest=snakemake.output.manifest,
        about={name: this.wildcards[name] for name in ("run", "text", "stage")},
        reading=Reading(**this.cfg["reading"]),
        note=this.note,
    )
