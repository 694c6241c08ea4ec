"""Writing activation shards: one zarr array of rows, the table of its rows, and its manifest.

The array MUST be zarr v3 of shape (row, d_model), chunks of whole rows, codec crc32c and no compression; bfloat16 is kept as its
uint16 view. Its attributes are `logical_dtype`, `hook_point` and `layer`. A value that is not finite in the stored format is
never written. The manifest is written last: without it there is no shard.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
import zarr
from torch import Tensor
from zarr.codecs import Crc32cCodec

from workflow.config.section import ConfigError
from workflow.formats.files import file_digest, folder_digest, publish, sync
from workflow.formats.manifest import write_manifest
from workflow.formats.rows import with_norms, write_rows

ARTEFACT = "activation_shard"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
ON_DISK = {"float32": "float32", "float16": "float16", "bfloat16": "uint16"}
"""Element type of the zarr array for each logical one: zarr has no bfloat16."""

SINK_MULTIPLE = 10
"""The manifest states the share of rows with a norm above this multiple of the median."""


class ShardFiles(NamedTuple):
    """The three files of a shard."""

    array: Path
    rows: Path
    manifest: Path


def shard_files(manifest: Path | str) -> ShardFiles:
    """The files of the shard whose manifest is `…/shard_<n>.json`."""
    manifest = Path(manifest)
    return ShardFiles(manifest.with_suffix(".zarr"), manifest.with_suffix(".rows.parquet"), manifest)


def hook_point(layer: int) -> str:
    """Name of the output residual stream of a block, before any norm, as SAE libraries write it."""
    return f"blocks.{layer}.hook_resid_post"


def checked(values: Tensor, dtype: torch.dtype, layer: int, place: Callable[[int], str]) -> tuple[Tensor, Tensor]:
    """Rows in the stored format and their float32 norms.

    Args:
        values: rows of one layer, [row, d_model], any float type.
        dtype: stored format.
        layer: named in the error.
        place: says which trace and position a row is.

    Raises:
        ConfigError: a value is not finite, or not in the range of `dtype`.
    """
    stored = values.to(dtype)
    norms = torch.linalg.vector_norm(stored, dim=1, dtype=torch.float32)
    if not torch.isfinite(norms).all():
        norms = torch.linalg.vector_norm(stored, dim=1, dtype=torch.float64).to(torch.float32)
        bad = ~torch.isfinite(stored).all(dim=1) | ~torch.isfinite(norms)
        if bad.any():
            row = int(bad.nonzero()[0])
            raise ConfigError(_complaint(values[row], dtype, layer, place(row)))
    return stored, norms


def _complaint(row: Tensor, dtype: torch.dtype, layer: int, place: str) -> str:
    name = str(dtype).removeprefix("torch.")
    if not torch.isfinite(row).all():
        return (
            f"Activations must be finite; layer {layer} at {place} has {int((~torch.isfinite(row)).sum())} values that are not. "
            "Set compute.dtype=float32, and if that does not help look at the policy: its weights may be broken."
        )
    return (
        f"Activations must lie within ±{torch.finfo(dtype).max:.6g} to be stored as {name}; layer {layer} at {place} "
        f"reaches {float(row.abs().max()):.6g}. Set activations.dtype to bfloat16 or float32."
    )


class ShardWriter:
    """Writes the rows of one array in their order, whole chunks at a time; rows that do not fill one wait in `waiting`."""

    def __init__(
        self, folder: Path, *, rows: int, d_model: int, chunk_rows: int, dtype: str, layer: int, done: int = 0,
        waiting: Tensor | None = None,
    ) -> None:  # fmt: skip
        """With `done` > 0 rows already in `folder`, and those that waited behind them, writing goes on where it was left."""
        self.rows, self.done, self.folder, self.chunk_rows = rows, done, folder, chunk_rows
        self.waiting = torch.empty(0, d_model, dtype=DTYPES[dtype]) if waiting is None else waiting
        if done:
            self._array = zarr.open_array(folder, mode="r+", config={"write_empty_chunks": True})
        else:
            self._array = zarr.create_array(
                folder, shape=(rows, d_model), chunks=(min(chunk_rows, rows), d_model), dtype=ON_DISK[dtype],
                compressors=[Crc32cCodec()], filters=None, overwrite=True, zarr_format=3,
                attributes={"logical_dtype": dtype, "hook_point": hook_point(layer), "layer": layer},
                # a chunk of zeros is data too: one that is not on disk is always a lost one
                config={"write_empty_chunks": True},
            )  # fmt: skip

    def append(self, values: Tensor) -> None:
        """Write the next rows, already in the stored format."""
        values = torch.cat([self.waiting, values]) if len(self.waiting) else values
        whole = len(values) // self.chunk_rows * self.chunk_rows
        self._write(values[:whole])
        self.waiting = values[whole:].clone()

    def finish(self) -> None:
        """Write the rows that still wait as the last, shorter chunk."""
        self._write(self.waiting)
        self.waiting = self.waiting[:0]
        if self.done != self.rows:
            raise RuntimeError(f"{self.rows} rows were announced for {self.folder}, {self.done} came")

    def _write(self, values: Tensor) -> None:
        if len(values):
            bits = values.contiguous().view(torch.uint16) if values.dtype == torch.bfloat16 else values
            self._array[self.done : self.done + len(values)] = bits.numpy()
            for chunk in range(self.done // self.chunk_rows, -(-(self.done + len(values)) // self.chunk_rows)):
                sync(self.folder / "c" / str(chunk) / "0")
            self.done += len(values)


def describe(array: Path, rows: pa.Table, norms: np.ndarray, layer: int, dtype: str, **meaning: Any) -> dict[str, Any]:
    """The fields of the manifest of a finished array; `meaning` holds what the caller knows."""
    median = float(np.median(norms))
    quantiles = np.quantile(norms.astype(np.float64), [0, 0.01, 0.5, 0.99, 1])
    return meaning | {
        "rows": len(norms),
        "traces": len(rows.column("trace").combine_chunks().unique()),
        "problems": len(rows.column("problem").combine_chunks().unique()),
        "d_model": zarr.open_array(array, mode="r").shape[1],
        "dtype": dtype,
        "layer": layer,
        "hook_point": hook_point(layer),
        "norm_quantiles": dict(zip(("min", "p01", "p50", "p99", "max"), map(float, quantiles), strict=True)),
        f"share_above_{SINK_MULTIPLE}_medians": float(np.mean(norms > SINK_MULTIPLE * median)),
        "digest": folder_digest(array),
    }


def publish_shard(scratch: Path, files: ShardFiles, rows: pa.Table, norms: np.ndarray) -> str:
    """Put a finished array and its row table in their places; the digest of the table. The manifest is for the caller to write."""
    files.array.parent.mkdir(parents=True, exist_ok=True)
    publish(scratch, files.array)
    write_rows(files.rows, with_norms(rows, norms))
    return file_digest(files.rows)


def write_shard(
    manifest: Path | str, values: Tensor, rows: pa.Table, *, layer: int, dtype: str = "float32", chunk_rows: int = 1024,
    meaning: Mapping[str, Any] | None = None,
) -> ShardFiles:  # fmt: skip
    """Write rows that are at hand as one shard; the columns of `rows` are those of a row table, `norm` is computed.

    Raises:
        ConfigError: a value is not finite in the stored format.
    """
    files = shard_files(manifest)
    names, positions = rows.column("trace").to_pylist(), rows.column("pos").to_pylist()
    stored, norms = checked(values, DTYPES[dtype], layer, lambda row: f"trace {names[row]}, position {positions[row]}")
    files.array.parent.mkdir(parents=True, exist_ok=True)
    scratch = files.array.with_name(f".{files.array.name}.tmp")
    writer = ShardWriter(scratch, rows=len(values), d_model=values.shape[1], chunk_rows=chunk_rows, dtype=dtype, layer=layer)
    writer.append(stored)
    writer.finish()
    facts = describe(scratch, rows, norms.numpy(), layer, dtype, **(meaning or {}))
    rows_digest = publish_shard(scratch, files, rows, norms.numpy())
    write_manifest(files.manifest, ARTEFACT, **facts, rows_digest=rows_digest)
    return files
