"""The tables of the study from those of all jobs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from workflow.formats.drift_columns import schema
from workflow.formats.files import file_digest
from workflow.formats.manifest import write_manifest
from workflow.formats.n2g_columns import N2G_TABLES
from workflow.formats.parquet import read_table
from workflow.formats.table_files import write_csv, write_parquet
from workflow.n2g.labelling import LABELS, with_labels


def n2g_tables(
    *, parts: Mapping[str, Sequence[Path | str]], tables: Mapping[str, tuple[Path | str, Path | str]], manifest: Path | str,
    labels: Sequence[Path | str] = (),
) -> None:  # fmt: skip
    """Write every table as parquet and CSV.

    Args:
        parts: parquet files of the jobs by table.
        tables: parquet and CSV file by table.
        manifest: manifest.json of the tables.
        labels: labels of the latents of each part of `n2g`, in their order; none where nobody was asked.

    Raises:
        ConfigError: a file has other columns.
    """
    described = {}
    for name, (parquet, text) in tables.items():
        columns = schema(N2G_TABLES[name])
        read = [read_table(path, columns) for path in parts[name]]
        if name == "n2g" and labels:
            read = [with_labels(table, read_table(path, LABELS).to_pylist()) for table, path in zip(read, labels, strict=True)]
        table = pa.concat_tables([columns.empty_table(), *read])
        write_parquet(parquet, table)
        complete = write_csv(text, table)
        described[name] = {
            "rows": len(table),
            "columns": table.column_names,
            "csv_complete": complete,
            "digest": file_digest(parquet),
        }
    write_manifest(manifest, "n2g_tables", tables=described)
