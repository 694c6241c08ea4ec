"""The table of all agreements between crosscoders and chains, from their measurements."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from workflow.drift.writing import write_csv, write_parquet
from workflow.formats.agreement_columns import Agreement
from workflow.formats.drift_columns import schema
from workflow.formats.files import file_digest
from workflow.formats.manifest import write_manifest
from workflow.formats.parquet import read_table


def agreement_table(*, agreements: Sequence[Path | str], parquet: Path | str, csv: Path | str, manifest: Path | str) -> None:
    """Write the table as parquet and CSV, and what tells its content.

    Args:
        agreements: agreement.parquet of every chain.
        parquet: agreement.parquet of the study.
        csv: agreement.csv.
        manifest: agreement.json.
    """
    table = pa.concat_tables([read_table(path, schema(Agreement)) for path in agreements])
    write_parquet(parquet, table)
    write_csv(csv, table)
    write_manifest(manifest, "agreement_table", rows=len(table), columns=table.column_names, digest=file_digest(parquet))
