"""Tables as parquet and CSV whose bytes depend on the values alone."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from workflow.formats.drift_columns import Estimate, schema
from workflow.formats.files import replacing

CSV_ROWS = 200_000
"""A longer table is written as parquet alone."""
ROWS_PER_GROUP = 1 << 18
DIGITS = ".10g"
"""Numbers in CSV files, ten significant digits."""


def arrow_table(rows: Sequence[Any], table: type) -> pa.Table:
    """Rows of one table class as an arrow table with the columns of `schema`."""
    return pa.Table.from_pylist([dict(_cells(row)) for row in rows], schema=schema(table))


def _cells(row: Any) -> Iterator[tuple[str, Any]]:
    """Column names and values; an `Estimate` gives three, a missing one none, which are nulls then."""
    for name, value in row._asdict().items():
        if isinstance(value, Estimate):
            yield from ((name, value.value), (f"{name}_low", value.low), (f"{name}_high", value.high))
        else:
            yield name, value


def write_parquet(path: Path | str, table: pa.Table) -> None:
    """Write a table in one step."""
    with replacing(path) as temporary:
        pq.write_table(table.combine_chunks(), temporary, compression="zstd", row_group_size=ROWS_PER_GROUP)


def write_csv(path: Path | str, table: pa.Table) -> bool:
    """Write a table in one step, floats with ten digits, nulls empty; of a table above the limit only the header.

    Returns:
        Whether the rows were written.
    """
    fits = len(table) < CSV_ROWS
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(table.column_names)
        for batch in table.to_batches(max_chunksize=4096) if fits else ():
            writer.writerows(zip(*(map(_text, column.to_pylist()) for column in batch.columns), strict=True))
    return fits


def _text(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case float():
            return format(value, DIGITS)
    return str(value)
