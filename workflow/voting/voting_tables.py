"""Rule voting_tables: the tables of voting, of all pools together."""

from typing import TYPE_CHECKING

from workflow.formats.voting_columns import VOTING_TABLES
from workflow.runtime import job
from workflow.voting.publishing import collect

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake):
    files = {name: snakemake.input[name] for name in VOTING_TABLES}
    collect(
        pools=[dict(zip(files, pool, strict=True)) for pool in zip(*files.values(), strict=True)],
        manifests=snakemake.input.manifests,
        tables={name: (snakemake.output[name], snakemake.output[f"{name}_csv"]) for name in VOTING_TABLES},
        manifest=snakemake.output.manifest,
    )
