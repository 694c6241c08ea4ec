"""What the fits of one place (a layer of one stage, or the sets of no layer) leave: held-out scores and weights, streamed by probe.

`held_out.parquet`, columns `HELD_OUT`, a row group or more per probe: what it says of steps of `val` and `test`, ordered by
problem, trace and step. `weights.parquet`, columns `WEIGHTS`: linear probes on raw columns, log odds (or the number) =
Σ weight · column + intercept, zeros left out; `column` is the latent of an SAE's codes, −1 the intercept, and `name` what a word's
or a joined set's column is. Beside them `probes.parquet` and `controls.parquet` (`workflow/formats/probe_columns.py`) and
`manifest.json` (artefact `probe_fits`): run, stage, layer, `widths` of the sets, `digests` of these files.
"""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from workflow.formats.files import replacing
from workflow.formats.parquet import check_columns, read_table

ARTEFACT = "probe_fits"
FILES = ("probes", "controls", "held_out", "weights")
HELD_OUT = pa.schema(
    [
        ("problem", pa.string()),
        ("split", pa.string()),
        ("trace", pa.string()),
        ("sample", pa.int32()),
        ("step", pa.int32()),
        ("task", pa.string()),
        ("kind", pa.string()),
        ("layer", pa.int32()),
        ("features", pa.string()),
        ("model", pa.string()),
        ("score", pa.float64()),
        ("label", pa.float64()),
    ]
)
"""`score` and `label`: log odds and 0, 1 or null (binary); the number said and the right one (numbers); log p of the right class
and whether it was the likeliest (classes)."""
WEIGHTS = pa.schema(
    [
        ("task", pa.string()),
        ("features", pa.string()),
        ("model", pa.string()),
        ("column", pa.int32()),
        ("name", pa.string()),
        ("weight", pa.float64()),
    ]
)


class Stream:
    """A parquet file written table by table; there only if nothing was raised within `with`."""

    def __init__(self, path: Path | str, schema: pa.Schema) -> None:
        self._replacing, self._schema = replacing(path), schema

    def __enter__(self) -> "Stream":
        self._file = pq.ParquetWriter(self._replacing.__enter__(), self._schema, compression="zstd")
        return self

    def add(self, table: pa.Table) -> None:
        """Rows that come next."""
        self._file.write_table(table.cast(self._schema))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()
        self._replacing.__exit__(kind, error, trace)


def read_held_out(path: Path | str, *, task: str, features: str, model: str) -> pa.Table:
    """What one probe says of held-out steps.

    Raises:
        ConfigError: the file has other columns.
    """
    check_columns(path, HELD_OUT)
    return pq.read_table(path, filters=[("task", "==", task), ("features", "==", features), ("model", "==", model)])


def held_out_tables(path: Path | str) -> Iterator[pa.Table]:
    """Every probe's rows, one row group at a time.

    Raises:
        ConfigError: the file has other columns.
    """
    check_columns(path, HELD_OUT)
    with pq.ParquetFile(path) as file:
        yield from (file.read_row_group(number) for number in range(file.num_row_groups))


def read_weights(path: Path | str) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    """Rows of weights.parquet by (task, features, model).

    Raises:
        ConfigError: the file has other columns.
    """
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in read_table(path, WEIGHTS).to_pylist():
        found.setdefault((row["task"], row["features"], row["model"]), []).append(row)
    return found
