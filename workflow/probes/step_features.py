"""Rule step_features: what probes may read of the steps of a pool, at every layer."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch  # noqa: F401  # before the job starts, so that it can limit torch's threads

from workflow.formats.activations import RowFilter
from workflow.probes.coders import Wanted
from workflow.probes.featuring import Files, Inputs, Machine, Settings, step_features
from workflow.runtime import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    given, out = snakemake.input, snakemake.output
    facts = step_features(
        inputs=Inputs(
            traces=given.traces, traces_manifest=given.traces_manifest, problems=given.problems, policy=given.policy,
            model=given.model, shards=given.stores, saes=given.saes,
        ),
        outputs=[Files(Path(features), Path(manifest)) for features, manifest in zip(out.features, out.manifests, strict=True)],
        beside=out.provenance,
        where=this.wildcards | {"text": "pool"},
        settings=Settings(
            layers=this.cfg["layers"], batch_tokens=this.cfg["batch_tokens"], wanted=Wanted(**this.cfg["features"]),
            keep=RowFilter(**this.cfg["rows"]),
        ),
        machine=Machine(**this.cfg["compute"]),
        key=this.key,
    )  # fmt: skip
    this.note(**facts)
