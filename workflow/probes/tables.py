"""The tables of probes from what all fits left."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from workflow.formats.drift_columns import schema
from workflow.formats.files import file_digest
from workflow.formats.manifest import read_manifest, write_manifest
from workflow.formats.probe_columns import PROBE_TABLES
from workflow.formats.probe_fits import ARTEFACT as FITS
from workflow.formats.probe_scores import ARTEFACT as SCORES
from workflow.formats.table_files import write_csv, write_parquet

PROBE = ["run", "stage", "layer", "task", "features", "model"]


def probe_tables(
    *, fits: Sequence[Path | str], compared: Sequence[Path | str], transfers: Sequence[Path | str],
    tables: Mapping[str, tuple[Path | str, Path | str]], manifest: Path | str, bootstrap: Mapping[str, Any],
) -> None:  # fmt: skip
    """Write every table as parquet and CSV.

    Args:
        fits: manifests of all fits; their files lie beside them.
        compared: manifests of the scores of all stages.
        transfers: manifests of all transfers.
        tables: parquet and CSV file by name.
        manifest: manifest.json of the tables.
        bootstrap: `replicates`, `confidence`, `seed`, told in the manifest.

    Raises:
        ValueError: a manifest is of something else.
    """
    used = {}
    for path in compared:
        facts = read_manifest(path, SCORES)
        used |= {(facts["run"], facts["stage"], *(row[name] for name in PROBE[2:])): row["used"] for row in facts["judged"]}
    for path in fits:
        read_manifest(path, FITS)
    rows = {
        "probes": [_with_use(_read(path, "probes.parquet"), used) for path in fits],
        "probe_contrasts": [_read(path, "contrasts.parquet") for path in compared],
        "probe_transfer": [_read(path, "transfer.parquet") for path in transfers],
        "probe_controls": [_read(path, "controls.parquet") for path in fits],
    }
    described = {}
    for name, parts in rows.items():
        table = pa.concat_tables([schema(PROBE_TABLES[name]).empty_table(), *parts])
        parquet, text = tables[name]
        write_parquet(parquet, table)
        described[name] = {"rows": len(table), "csv_complete": write_csv(text, table), "digest": file_digest(parquet)}
    write_manifest(manifest, "probe_tables", tables=described, bootstrap=dict(bootstrap))


def _read(manifest: Path | str, name: str) -> pa.Table:
    return pq.read_table(Path(manifest).with_name(name))


def _with_use(table: pa.Table, used: Mapping[tuple, bool]) -> pa.Table:
    keys = zip(*(table[name].to_pylist() for name in PROBE), strict=True)
    column = pa.array([used.get(key) for key in keys], pa.bool_())
    return table.set_column(table.column_names.index("used"), table.schema.field("used"), column)
