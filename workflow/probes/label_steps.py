"""Rule label_steps: what is known of the steps of a pool of solutions."""

from typing import TYPE_CHECKING

from workflow.probes.labelling import Sources, label_steps
from workflow.probes.user_labels import UserLabels
from workflow.runtime import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    user = [UserLabels(path, run=this.wildcards["run"], stage=this.wildcards["stage"]) for path in snakemake.input.user]
    known = label_steps(
        traces=snakemake.input.traces,
        traces_manifest=snakemake.input.traces_manifest,
        problems=snakemake.input.problems,
        model=snakemake.input.model,
        labels=snakemake.output.labels,
        manifest=snakemake.output.manifest,
        constants=this.cfg["constants"],
        sources=Sources(user[0] if user else None, tuple(snakemake.input.tables)),
    )
    this.note(known=known)
