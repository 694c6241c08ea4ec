"""Rule compare_probes: the probes of one stage side by side, and their scores for voting."""

from typing import TYPE_CHECKING

from workflow.probes.comparing import compare_probes
from workflow.runtime import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    compare_probes(
        run=this.wildcards["run"],
        stage=this.wildcards["stage"],
        manifests=snakemake.input.manifests,
        scores=snakemake.output.scores,
        contrasts=snakemake.output.contrasts,
        manifest=snakemake.output.manifest,
        bootstrap=this.cfg["bootstrap"],
    )
