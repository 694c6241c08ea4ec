"""The table of all crosscoders, from their measurements."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from workflow.drift.kl import policy_kl
from workflow.formats.drift_columns import schema
from workflow.formats.files import file_digest
from workflow.formats.joint_columns import CrosscoderStage
from workflow.formats.manifest import write_manifest
from workflow.formats.parquet import read_table
from workflow.formats.table_files import write_csv, write_parquet


def crosscoder_table(
    *, stages: Sequence[Path | str], policies: Sequence[Path | str], parquet: Path | str, csv: Path | str, manifest: Path | str
) -> None:
    """Write the table as parquet and CSV, with the KL of every stage, and what tells its content.

    Args:
        stages: stages.parquet of every measurement.
        policies: manifests of the policies.
        parquet: crosscoder.parquet.
        csv: crosscoder.csv.
        manifest: crosscoder.json.
    """
    kl, columns = policy_kl(policies), schema(CrosscoderStage)
    table = pa.concat_tables([read_table(path, columns) for path in stages])
    known = [kl.get((row["run"], row["stage"])) for row in table.select(["run", "stage"]).to_pylist()]
    place = columns.get_field_index("kl")
    table = table.set_column(place, columns.field(place), pa.array(known, pa.float64()))
    write_parquet(parquet, table)
    write_csv(csv, table)
    write_manifest(manifest, "crosscoder_table", rows=len(table), columns=table.column_names, digest=file_digest(parquet))
