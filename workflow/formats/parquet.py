"""Tables of records as parquet files whose bytes depend on the records alone."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from workflow.config.section import ConfigError
from workflow.formats.files import replacing

ROWS_PER_GROUP = 4096
"""Fixed, so that equal records give equal bytes."""


def write_records(path: Path | str, records: Iterable[Mapping[str, Any]], schema: pa.Schema) -> None:
    """Write records with exactly the columns of the schema, in one step."""
    table = pa.Table.from_pylist([dict(record) for record in records], schema=schema)
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=ROWS_PER_GROUP)


def read_table(path: Path | str, schema: pa.Schema, splits: Iterable[str] | None = None) -> pa.Table:
    """A table of this schema; with `splits` only the rows whose column `split` is among them.

    Raises:
        ConfigError: the file's columns are not those of the schema, in names, order or types.
    """
    check_columns(path, schema)
    return pq.read_table(path, filters=None if splits is None else [("split", "in", list(splits))])


def check_columns(path: Path | str, schema: pa.Schema) -> None:
    """Refuse a file whose columns are not those of the schema, in names, order or types.

    Raises:
        ConfigError: with what is missing and what is not expected.
    """
    found = pq.read_schema(path)
    if found.names != schema.names or found.types != schema.types:
        raise ConfigError(
            f"{path} must hold the columns {', '.join(schema.names)}; missing or of another type: {_differing(schema, found)}, "
            f"not expected: {_differing(found, schema)}. Delete the file and run again, it will be rebuilt."
        )


def _differing(schema: pa.Schema, other: pa.Schema) -> str:
    """Columns that `other` lacks or has with another type."""
    same = [field.name in other.names and other.field(field.name).type == field.type for field in schema]
    return ", ".join(f"{field.name} ({field.type})" for field, is_same in zip(schema, same, strict=True) if not is_same) or "none"
