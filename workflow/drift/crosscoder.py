"""Rule crosscoder: one dictionary for all stages at once, trained on their paired rows."""

from typing import TYPE_CHECKING

import torch  # noqa: F401  # before the job starts, so that it can limit torch's threads

from workflow.config.joint import CrosscoderSettings
from workflow.drift.crosscoding import Scope, train_crosscoder
from workflow.formats.activations import RowFilter
from workflow.runtime import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    at = this.wildcards
    facts = train_crosscoder(
        stores=snakemake.input.stores,
        crosscoder=snakemake.output.crosscoder,
        history=snakemake.output.history,
        manifest=snakemake.output.manifest,
        scope=Scope(
            run=at["run"],
            text=at["text"],
            seed=int(at["seed"]),
            layer=int(at["layer"]),
            stages=[(name, update) for name, update in this.cfg["stages"]],
            keep=RowFilter(**this.cfg["rows"]),
            settings=CrosscoderSettings(**this.cfg["crosscoder"]),
        ),
        device=this.cfg["compute"]["device"],
        backend=this.cfg["compute"]["backend"],
        key=this.key,
    )
    this.note(**facts)
