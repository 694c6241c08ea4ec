"""Small activation stores with known values for tests."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from workflow.formats.rows import RESPONSE, TEMPLATE
from workflow.formats.shards import write_shard

TEXT = 7
"""Tokens of every text."""


def row_table(first: int, count: int) -> pa.Table:
    """Rows first … first + count of an endless set of texts; a third of the texts is `val`, the rest `test`."""
    index = np.arange(first, first + count)
    text, pos = index // TEXT, index % TEXT
    return pa.table(
        {
            "problem": pa.array([f"p{t // 2:012x}" for t in text]).dictionary_encode(),
            "split": pa.array(["val" if t % 3 == 0 else "test" for t in text]).dictionary_encode(),
            "trace": pa.array([f"p{t // 2:012x}/base/{t % 2}" for t in text]).dictionary_encode(),
            "step": pa.array(np.where(pos < 3, -1, 0), pa.int16()),
            "pos": pa.array(pos, pa.int32()),
            "token": pa.array(index % 500, pa.int32()),
            "role": pa.array(np.where(pos < 3, TEMPLATE, RESPONSE), pa.int8()),
        }
    )


def make_store(
    folder: Path, sizes: list[int], d_model: int = 8, chunk_rows: int = 16, dtype: str = "float32", sink: float = 1.0, seed: int = 0
) -> tuple[list[Path], Tensor]:
    """Shards of these sizes; their manifests and all values.

    Column 0 is the row's number; rows at position 0 are `sink` times as long.
    """
    draw = torch.Generator().manual_seed(seed)
    values = torch.randn(sum(sizes), d_model, generator=draw)
    values[:, 0] = 0.01 * torch.arange(sum(sizes))
    values[::TEXT] *= sink
    values = values.to(getattr(torch, dtype)).float()
    manifests, first = [], 0
    for number, size in enumerate(sizes):
        manifests.append(folder / f"shard_{number:03d}.json")
        meaning = {"run": "shared", "text": "fixed", "stage": "base", "part": "heldout", "shard": f"{number:03d}"}
        write_shard(
            manifests[-1], values[first : first + size], row_table(first, size),
            layer=3, dtype=dtype, chunk_rows=chunk_rows, meaning=meaning,
        )  # fmt: skip
        first += size
    return manifests, values
