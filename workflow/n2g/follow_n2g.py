"""Rule follow_n2g: the graphs of one (run, text, kind, seed, layer) on the rows of every mined stage."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch  # noqa: F401  # before the job starts, so that it can limit torch's threads

from workflow.config.n2g import N2gConfig
from workflow.formats.activations import RowFilter
from workflow.language_model import load_tokenizer, model_facts
from workflow.n2g.following import Files, follow_latents
from workflow.n2g.vocabulary import vocabulary
from workflow.runtime import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    at, stages, given = this.wildcards, this.cfg["stages"], snakemake.input
    shards = len(given.held_out) // len(stages)
    model = given.model
    follow_latents(
        stages={
            stage: Files(Path(graphs), Path(sae), [Path(path) for path in given.held_out[number * shards : (number + 1) * shards]])
            for number, (stage, graphs, sae) in enumerate(zip(stages, given.graphs, given.saes, strict=True))
        },
        base_sae=given.base_sae,
        members=vocabulary(load_tokenizer(model), model_facts(model).vocab).members,
        folder=Path(snakemake.output.manifest).parent,
        cell={name: at[name] for name in ("run", "text", "kind")} | {name: int(at[name]) for name in ("seed", "layer")},
        keep=RowFilter(**this.cfg["rows"]),
        settings=N2gConfig(**this.cfg["n2g"]),
        bootstrap=this.cfg["bootstrap"],
        key=this.key,
    )
