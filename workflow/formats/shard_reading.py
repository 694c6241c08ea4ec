"""Reading activation shards, and finding every way in which one can be damaged."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import zarr
from torch import Tensor

from workflow.config.section import ConfigError
from workflow.formats.files import folder_digest
from workflow.formats.manifest import read_manifest
from workflow.formats.rows import SCHEMA
from workflow.formats.shards import ARTEFACT, ON_DISK, shard_files


class CorruptShard(ConfigError):  # noqa: N818 - the reader's word for it
    """A shard on disk is not what its manifest says; `manifest` is the path of that manifest."""

    def __init__(self, manifest: Path, must: str, found: str) -> None:
        self.manifest = manifest
        super().__init__(
            f"{shard_files(manifest).array} must {must}; {found}. Run python -m workflow.activations.verify {manifest.parent} "
            "--set-aside, then the same snakemake command again: this shard is built anew, no other."
        )


class OpenShard:
    """One shard opened for reading: its manifest, its row table, its chunks."""

    def __init__(self, manifest: Path | str) -> None:
        """Check everything that can be checked without reading the array.

        Raises:
            CorruptShard: the array or row table is missing, incomplete, damaged or not of the size that the manifest states, or
                the norm of a row is not finite.
            ValueError: `manifest` is not one of a shard.
        """
        self.files = shard_files(manifest)
        self.facts = self._read_manifest()
        self.rows = self._read_rows()
        self._array = self._open_array()
        self.chunk_rows: int = self._array.chunks[0]
        self.chunks: int = self._array.cdata_shape[0]

    def corrupt(self, must: str, found: str) -> CorruptShard:
        """The error that says so."""
        return CorruptShard(self.files.manifest, must, found)

    def _read_manifest(self) -> dict[str, Any]:
        try:
            return read_manifest(self.files.manifest, ARTEFACT)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise self.corrupt("have a manifest in JSON", f"{self.files.manifest.name}: {error}") from error

    def _read_rows(self) -> pa.Table:
        try:
            content = self.files.rows.read_bytes()
        except FileNotFoundError:
            raise self.corrupt("have its row table beside it", f"{self.files.rows.name} is missing") from None
        if hashlib.sha256(content).hexdigest() != self.facts["rows_digest"]:
            raise self.corrupt("have the row table that its manifest names", f"{self.files.rows.name} has another digest")
        table = pq.read_table(pa.BufferReader(content))
        if table.num_rows != self.facts["rows"] or table.schema.names != SCHEMA.names:
            raise self.corrupt(
                f"have a row table of {self.facts['rows']} rows and the columns {', '.join(SCHEMA.names)}",
                f"{self.files.rows.name} has {table.num_rows} rows and {', '.join(table.schema.names)}",
            )
        if len(bad := np.flatnonzero(~np.isfinite(table["norm"].to_numpy()))):
            raise self._not_finite(table, bad, "norms that are not")
        return table

    def _not_finite(self, rows: pa.Table, bad: np.ndarray, what: str) -> CorruptShard:
        """The error that names the first of some rows of the shard by number, trace and position."""
        first = int(bad[0])
        trace, position = rows["trace"][first].as_py(), rows["pos"][first].as_py()
        found = f"row {first} (trace {trace}, position {position}) and {len(bad) - 1} more have {what}"
        return self.corrupt("hold finite rows only", found)

    def _open_array(self) -> zarr.Array:
        try:
            array = zarr.open_array(self.files.array, mode="r")
            found = (list(array.shape), str(array.dtype), array.attrs["logical_dtype"])
            here, chunks = array.nchunks_initialized, array.nchunks
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self.corrupt("be a readable zarr array", f"{type(error).__name__}: {error}") from error
        dtype = self.facts["dtype"]
        wanted = ([self.facts["rows"], self.facts["d_model"]], ON_DISK[dtype], dtype)
        if found != wanted:
            raise self.corrupt(f"have shape and type {wanted} as its manifest and row table say", f"it has {found}")
        if here < chunks:
            raise self.corrupt(f"hold {chunks} chunks", f"{chunks - here} of them are missing")
        return array

    def chunk(self, index: int) -> Tensor:
        """The rows of one chunk, on the CPU, in their stored format.

        Raises:
            CorruptShard: the chunk is truncated, its checksum is wrong, or a value is not finite.
        """
        start = index * self.chunk_rows
        try:
            values = self._array[start : start + self.chunk_rows]
        except (OSError, ValueError) as error:
            raise self.corrupt(f"be intact in chunk {index}", str(error)) from error
        if not (self.files.array / "c" / str(index) / "0").exists():  # zarr reads a lost chunk as zeros
            raise self.corrupt(f"hold chunk {index}", "it vanished while the shard was open")
        tensor = torch.from_numpy(values)
        tensor = tensor.view(torch.bfloat16) if tensor.dtype == torch.uint16 else tensor
        # one sum tells of most chunks that all is well
        if not torch.isfinite(tensor.sum()) and not (fine := torch.isfinite(tensor).all(1)).all():
            raise self._not_finite(self.rows, start + np.flatnonzero(~fine.numpy()), "values that are not")
        return tensor

    def verify(self) -> None:
        """Read everything: the checksum of every chunk, and the digest of the array against the manifest.

        Raises:
            CorruptShard: at the first thing that is wrong.
        """
        for index in range(self.chunks):
            self.chunk(index)
        if (found := folder_digest(self.files.array)) != self.facts["digest"]:
            raise self.corrupt(f"have the digest {self.facts['digest'][:12]}…", f"it has {found[:12]}…")


def set_aside(manifest: Path | str) -> list[Path]:
    """Rename the array and the manifest of a shard to `*.corrupt`, so that the next run rebuilds it; the new names."""
    files = shard_files(manifest)
    aside = []
    for path in (files.manifest, files.array):
        if path.exists():
            target = path.with_name(f"{path.name}.corrupt")
            if target.is_dir():
                shutil.rmtree(target)
            path.replace(target)
            aside.append(target)
    return aside
