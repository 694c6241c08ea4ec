"""Rule make_n2g_tables: one table of each sort over all SAEs."""

from typing import TYPE_CHECKING

from workflow.n2g.tables import n2g_tables
from workflow.runtime import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    names = this.cfg["tables"]
    n2g_tables(
        parts={name: snakemake.input[name] for name in names},
        labels=snakemake.input.get("labels", []),
        tables={name: (snakemake.output[name], snakemake.output[f"{name}_csv"]) for name in names},
        manifest=snakemake.output.manifest,
    )
