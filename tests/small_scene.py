"""A tiny policy with texts, a store of its rows and SAEs of them, on disk."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from small_traces import COMPUTE, extraction_arguments, write_random_traces

from sae_core.config.sae import TopKConfig
from sae_core.models.build import initial
from sae_core.models.sae import SAE
from workflow.activations.extraction import extract_shard
from workflow.formats.activations import RowFilter
from workflow.formats.files import file_digest
from workflow.formats.saes import write_plain, write_sae_manifest
from workflow.interventions.inputs import Reading
from workflow.interventions.splicing import SpliceCell, splice

KEEP = RowFilter(1, 10.0)
LAYER = 0
D_SAE, K = 96, 6


class Scene(NamedTuple):
    """Paths of a scene."""

    folder: Path
    model: Path
    shards: list[Path]
    saes: dict[str, Path]

    def arguments(self, out: str = "splice", **changes: Any) -> dict[str, Any]:
        """Arguments of `splice`."""
        usual: dict[str, Any] = {
            "traces": self.folder / "traces.parquet", "traces_manifest": self.folder / "manifest.json", "model": self.model,
            "shards": self.shards, "saes": self.saes, "sums": self.folder / out / "sums.parquet",
            "manifest": self.folder / out / "manifest.json", "cell": SpliceCell("strict", "onpolicy", "topk", 0, "ppo_0001", LAYER),
            "keep": KEEP, "ablated": ["mean", "zero"], "reading": reading(),
        }  # fmt: skip
        return usual | changes

    def splice(self, out: str = "splice", **changes: Any) -> Path:
        """Splice; the table of sums."""
        splice(**self.arguments(out, **changes))
        return self.folder / out / "sums.parquet"


def reading(**changes: Any) -> Reading:
    """How texts are read here."""
    return Reading(**({"problems": 8, "max_tokens": 64, "batch_tokens": 200, **COMPUTE} | changes))


def write_one_sae(folder: Path, sae: SAE, **facts: Any) -> Path:
    """An SAE with the manifest that the phase saes would write; its path."""
    folder.mkdir(parents=True)
    flags = torch.zeros(sae.config.d_sae)
    write_plain(folder / "sae.safetensors", {**sae.tensors(), "firing_rate": flags, "reinitialised": flags.bool()})
    usual = {"run": "strict", "text": "fixed", "kind": "topk", "chain": "real", "seed": 0, "stage": "base", "layer": LAYER,
             "hook_point": f"blocks.{LAYER}.hook_resid_post"}  # fmt: skip
    write_sae_manifest(folder / "manifest.json", sae.config, **(usual | facts), digest=file_digest(folder / "sae.safetensors"))
    return folder / "manifest.json"


def make_scene(folder: Path, model: Path, layer: int = LAYER, problems: int = 8) -> Scene:
    """Random texts, the rows of one policy on them, and three random SAEs."""
    write_random_traces(folder, {"val": 2, "test": problems})
    extract_shard(**extraction_arguments(folder, model))
    shard = folder / f"out/layer_{layer}/heldout/shard_000.json"
    rows = torch.randn(256, 64, generator=torch.Generator().manual_seed(0))
    saes = {
        name: write_one_sae(folder / f"sae_{name}", initial(TopKConfig(d_model=64, d_sae=D_SAE, k=K), rows, seed))
        for seed, name in enumerate(("real", "frozen", "null"))
    }
    return Scene(folder, model, [shard], saes)
