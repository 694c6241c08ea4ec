"""Rule probe_tables: the tables of probes from all fits, comparisons and transfers."""

from typing import TYPE_CHECKING

from workflow.formats.probe_columns import PROBE_TABLES
from workflow.probes.tables import probe_tables
from workflow.runtime import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    probe_tables(
        fits=snakemake.input.fits,
        compared=snakemake.input.compared,
        transfers=snakemake.input.transfers,
        tables={name: (snakemake.output[name], snakemake.output[f"{name}_csv"]) for name in PROBE_TABLES},
        manifest=snakemake.output.manifest,
        bootstrap=this.cfg["bootstrap"],
    )
