"""What the fits of one place (a layer of one stage, or the sets of no layer) leave: held-out scores and weights, streamed by probe.

`held_out.parquet`, columns `HELD_OUT`, a row group or more per probe: what it says of steps of `val` and `test`, ordered by
problem, trace and step. `weights.parquet`, columns `WEIGHTS`: linear probes on raw columns, log odds (or the number, or the logit
of a class) = Σ weight · column + intercept, zeros left out; `column` is the latent of an SAE's codes, −1 the intercept, `name` what
a word's or a joined set's column is, `class` null but of a task of classes, where it is a class that was seen in training. Beside
them `probes.parquet` and `controls.parquet` (`workflow/formats/probe_columns.py`) and `manifest.json` (artefact `probe_fits`): run,
stage, layer, `widths` of the sets, `digests` of these files.
"""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from workflow.formats.files import replacing
from workflow.formats.parquet import check_columns, read_table
from workflow.formats.probe_scores import STEP

ARTEFACT = "probe_fits"
FILES = ("probes", "controls", "held_out", "weights")
PATHS = {name: f"{name}.parquet" for name in FILES}
HELD_OUT = pa.schema([*STEP, ("group", pa.string()), ("kind", pa.string()), ("score", pa.float64()), ("label", pa.float64())])
"""`score` and `label`: log odds and 0, 1 or null (binary); the number said and the right one (numbers); log p of the right class
and whether it was the likeliest (classes)."""
WEIGHTS = pa.schema(
    [
        ("task", pa.string()),
        ("features", pa.string()),
        ("model", pa.string()),
        ("class", pa.string()),
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


class Weights(NamedTuple):
    """A linear probe as it is stored."""

    classes: list[str]
    """Of a task of classes, else empty."""
    columns: list[np.ndarray]
    """Columns with a weight, of each class; one array where there are no classes."""
    values: list[np.ndarray]
    """Their weights."""
    intercepts: np.ndarray
    """[class], or [1]."""

    def matrix(self, width: int) -> np.ndarray:
        """[class, width] float64, or [1, width]; zeros filled in."""
        found = np.zeros((len(self.columns), width))
        for row, columns, values in zip(found, self.columns, self.values, strict=True):
            row[columns] = values
        return found


def read_weights(path: Path | str) -> dict[tuple[str, str, str], Weights]:
    """Linear probes by (task, features, model).

    Raises:
        ConfigError: the file has other columns.
    """
    frame = read_table(path, WEIGHTS).to_pandas()
    found = {}
    for key, rows in frame.groupby(["task", "features", "model"], sort=False):
        parts = [part for _, part in rows.groupby("class", sort=False, dropna=False)]
        columns = [part["column"].to_numpy() for part in parts]
        values = [part["weight"].to_numpy() for part in parts]
        found[key] = Weights(
            [part["class"].iloc[0] for part in parts if pd.notna(part["class"].iloc[0])],
            [one[one >= 0] for one in columns],
            [value[one >= 0] for one, value in zip(columns, values, strict=True)],
            np.array([float(value[one < 0][0]) for one, value in zip(columns, values, strict=True)]),
        )
    return found
