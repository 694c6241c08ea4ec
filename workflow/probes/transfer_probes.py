"""Rule transfer_probes: the probes of every stage of a run on the steps of every other, at one layer."""

from typing import TYPE_CHECKING

from workflow.config.probe_fits import ProbeFitsConfig
from workflow.probes.transferring import StageFiles, transfer_probes
from workflow.runtime import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    files = zip(this.cfg["stages"], snakemake.input.labels, snakemake.input.features, snakemake.input.weights, strict=True)
    transfer_probes(
        run=this.wildcards["run"],
        layer=int(this.wildcards["layer"]),
        stages=[StageFiles(*each) for each in files],
        parquet=snakemake.output.transfer,
        manifest=snakemake.output.manifest,
        settings=ProbeFitsConfig(**this.cfg["fits"]),
        bootstrap=this.cfg["bootstrap"],
    )
