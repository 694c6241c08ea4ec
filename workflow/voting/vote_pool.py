"""Rule vote_pool: votes of several traces of one pool."""

from typing import TYPE_CHECKING

from workflow.formats.voting_columns import VOTING_TABLES
from workflow.runtime import job
from workflow.voting.publishing import vote_on_pool

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    this.note(
        **vote_on_pool(
            traces=snakemake.input.traces,
            scores=snakemake.input.get("scores"),
            problems=snakemake.input.problems,
            run=this.wildcards["run"],
            stage=this.wildcards["stage"],
            update=this.cfg["update"],
            settings=this.cfg["voting"],
            bootstrap=this.cfg["bootstrap"],
            tables={name: snakemake.output[name] for name in VOTING_TABLES},
            manifest=snakemake.output.manifest,
        )
    )
