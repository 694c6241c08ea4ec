"""Rule fit_probes: every task on every feature set of one layer of one stage, or on the sets that are of no layer."""

from typing import TYPE_CHECKING

from workflow.config.probe_fits import ProbeFitsConfig
from workflow.formats.probe_fits import FILES
from workflow.probes.fitting import fit_probes
from workflow.runtime import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    place = this.wildcards["place"]
    facts = fit_probes(
        run=this.wildcards["run"],
        stage=this.wildcards["stage"],
        layer=int(place.removeprefix("layer_")) if place.startswith("layer_") else None,
        labels=snakemake.input.labels,
        features=snakemake.input.features,
        codes=dict(zip(this.cfg["codes"], snakemake.input.codes, strict=True)),
        files={name: snakemake.output[name] for name in FILES},
        manifest=snakemake.output.manifest,
        settings=ProbeFitsConfig(**this.cfg["fits"]),
        bootstrap=this.cfg["bootstrap"],
    )
    this.note(**facts)
