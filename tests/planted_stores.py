"""Real stores with planted directions, and the arguments to train SAEs on them without Snakemake."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.nn import functional

from workflow.config.sae_settings import SaeSettings
from workflow.formats.activations import RowFilter
from workflow.formats.rows import RESPONSE
from workflow.formats.shards import write_shard
from workflow.saes.starting import Place

WIDTH, TEXT, LAYER = 12, 6, 3
SETTINGS: dict[str, Any] = {
    "k": 2, "expansion": 3, "epochs": 3, "batch": 32, "lr": 1e-2, "buffer_rows": 256, "dead_rate": 5e-3, "resample_epochs": 1,
}  # fmt: skip

OF_KIND: dict[str, dict[str, Any]] = {
    "batchtopk": {"threshold_rate": 0.1},
    "matryoshka_batchtopk": {"threshold_rate": 0.1, "widths": [0.25, 0.5, 1.0]},
    "relu": {"sparsity_coef": 0.1},
    "jumprelu": {"sparsity_coef": 0.02, "bandwidth": 0.5, "target_l0": 2.0},
    "gated": {"sparsity_coef": 0.2},
}
"""What a kind needs beside `SETTINGS`."""
KINDS = ("topk", "topk_signed", "topk_absolute", *OF_KIND)


def planted_store(folder: Path, split: str, texts: int = 60, seed: int = 0, scale: float = 3.0, sinks: int = 0) -> list[Path]:
    """Two shards of texts of six rows; position 0 of each is an attention sink, and so are `sinks` rows elsewhere."""
    dictionary = functional.normalize(torch.randn(16, WIDTH, generator=torch.Generator().manual_seed(5)), dim=1)
    draw = torch.Generator().manual_seed(seed)
    latents = torch.randint(16, (texts * TEXT, 2), generator=draw)
    weights = 1 + torch.rand(texts * TEXT, 2, generator=draw)
    rows = scale * (functional.embedding_bag(latents, dictionary, per_sample_weights=weights, mode="sum") + 0.4)
    rows[::TEXT] *= 200
    rows[1 : 1 + sinks * TEXT : TEXT] *= 200
    half, manifests = texts // 2 * TEXT, []
    for number, part in enumerate((slice(0, half), slice(half, None))):
        manifests.append(folder / f"shard_{number:03d}.json")
        write_shard(manifests[-1], rows[part], _table(split, len(rows))[part], layer=LAYER, chunk_rows=50)
    return manifests


def _table(split: str, count: int) -> pa.Table:
    index = np.arange(count)
    names = [f"p{text:012x}" for text in index // TEXT]
    return pa.table({
        "problem": pa.array(names).dictionary_encode(), "split": pa.array([split] * count).dictionary_encode(),
        "trace": pa.array([f"{name}/base/0" for name in names]).dictionary_encode(), "step": pa.array(index * 0, pa.int16()),
        "pos": pa.array(index % TEXT, pa.int32()), "token": pa.array(index % 50, pa.int32()),
        "role": pa.array(index * 0 + RESPONSE, pa.int8()),
    })  # fmt: skip


def sae_arguments(
    folder: Path, stores: dict[str, list[Path]], rows: str = "base", warm: Path | None = None, **changes: Any
) -> dict[str, Any]:
    """Keyword arguments of `train_sae`; `changes` are settings, or fields of the place."""
    place = Place("shared", "fixed", "topk", "real", 0, "base", LAYER, 0 if warm is None else 1, "hop_0", "base")
    place = place._replace(**{name: changes.pop(name) for name in place._fields if name in changes})
    settings = SaeSettings(**SETTINGS | OF_KIND.get(place.kind, {}) | changes)
    return {
        "train_manifests": stores[rows], "val_manifests": stores["val"], "warm": warm, "sae": folder / "sae.safetensors",
        "history": folder / "history.csv", "manifest": folder / "manifest.json", "place": place,
        "settings": settings, "keep": RowFilter(1, 10.0), "device": "cpu", "key": "k", "backend": "torch",
    }  # fmt: skip
