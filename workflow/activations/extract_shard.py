"""Rule extract_shard: the residual stream of one policy on one shard of a text set, all layers in one pass."""

from typing import TYPE_CHECKING

from workflow.activations.extraction import extract_shard
from workflow.runtime import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    facts = extract_shard(
        traces=snakemake.input.traces,
        traces_manifest=snakemake.input.traces_manifest,
        policy=snakemake.input.policy,
        model=snakemake.input.model,
        manifests=snakemake.output.manifests,
        beside=snakemake.output.provenance,
        key=this.key,
        where=this.wildcards,
        settings=this.cfg["activations"],
        compute=this.cfg["compute"],
    )
    this.note(**facts)
