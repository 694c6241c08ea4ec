"""Rule train_kinds: the sparse autoencoders of all kinds on the rows of one layer and hop, read once for all."""

from pathlib import Path
from typing import TYPE_CHECKING

from workflow.config.sae_settings import SaeSettings
from workflow.formats.activations import RowFilter
from workflow.runtime import job
from workflow.saes.publishing import Files
from workflow.saes.training import Member, Place, train_saes

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    at, out = this.wildcards, snakemake.output
    place = Place(
        run=at["run"], text=at["text"], kind="", chain=at["chain"], seed=int(at["seed"]), stage=at["stage"],
        layer=int(at["layer"]), hop=this.cfg["hop"], part=this.cfg["part"], source_stage=this.cfg["source_stage"],
    )  # fmt: skip
    warm_starts = snakemake.input.get("warm") or [None] * len(out.sae)
    budget = list(snakemake.input.get("budget", []))
    budgets = [budget[number :: len(out.sae)] for number in range(len(out.sae))]
    each = zip(this.cfg["saes"].items(), warm_starts, out.sae, out.history, out.manifest, budgets, strict=True)
    facts = train_saes(
        members=[
            Member(place._replace(kind=kind), SaeSettings(**settings), warm, Files(Path(sae), Path(history), Path(manifest)), spent)
            for (kind, settings), warm, sae, history, manifest, spent in each
        ],
        train_manifests=snakemake.input.train_manifests,
        val_manifests=snakemake.input.val_manifests,
        keep=RowFilter(**this.cfg["rows"]),
        device=this.cfg["compute"]["device"],
        backend=this.cfg["compute"]["backend"],
        key=this.key,
    )
    this.note(**facts)
