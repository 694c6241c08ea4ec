"""Rule replayed_text: traces of a run's first and last stage as one set, the text set `replayed`."""

from typing import TYPE_CHECKING

from workflow.runtime import job
from workflow.traces.replay import replayed_text

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake):
    replayed_text(sources=snakemake.input.traces, traces=snakemake.output.traces, manifest=snakemake.output.manifest)
