"""Rule train_sae: one sparse autoencoder on the rows of one layer and hop, fresh or warm-started from the stage before."""

from typing import TYPE_CHECKING

from workflow.config.sae_settings import SaeSettings
from workflow.formats.activations import RowFilter
from workflow.runtime import job
from workflow.saes.training import Place, train_sae

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with job(snakemake) as this:
    at = this.wildcards
    facts = train_sae(
        train_manifests=snakemake.input.train_manifests,
        val_manifests=snakemake.input.val_manifests,
        warm=snakemake.input.get("warm"),
        sae=snakemake.output.sae,
        history=snakemake.output.history,
        manifest=snakemake.output.manifest,
        place=Place(
            run=at["run"], text=at["text"], kind=at["kind"], chain=at["chain"], seed=int(at["seed"]),
            stage=at["stage"], layer=int(at["layer"]), hop=this.cfg["hop"],
            part=this.cfg["part"], source_stage=this.cfg["source_stage"],
        ),
        settings=SaeSettings(**this.cfg["saes"]),
        keep=RowFilter(**this.cfg["rows"]),
        device=this.cfg["compute"]["device"],
        backend=this.cfg["compute"]["backend"],
        key=this.key,
        budget=snakemake.input.get("budget", []),
    )  # fmt: skip
    this.note(**facts)
