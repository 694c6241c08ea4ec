"""Files of the phase: the tables of one pool, and those of all pools together."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from workflow.formats.files import file_digest
from workflow.formats.manifest import read_manifest, write_manifest
from workflow.formats.table_files import write_csv, write_parquet
from workflow.formats.voting_columns import VOTING_TABLES
from workflow.voting.voting import vote

POOL, TABLES = "voting_pool", "voting_tables"
"""Artefacts."""


def vote_on_pool(
    *, tables: Mapping[str, Path | str], manifest: Path | str, traces: Path | str, scores: Path | str | None,
    problems: Path | str | None, run: str, stage: str, update: int, settings: Mapping[str, Any], bootstrap: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Write the tables of one pool as parquet, each under the path of its name, and their manifest; facts for provenance.

    The other arguments are those of `vote`.
    """
    found = vote(
        traces=traces, scores=scores, problems=problems, run=run, stage=stage, update=update, settings=settings, bootstrap=bootstrap
    )
    for name, table in found.items():
        write_parquet(tables[name], table)
    digests = {name: file_digest(tables[name]) for name in found}
    write_manifest(manifest, POOL, run=run, stage=stage, update=update, tables=digests)
    one = {name: found["voting"][name][0].as_py() for name in ("pool", "problems", "probes", "unparsed")}
    return one | {"schemes": len(found["voting"])}


def collect(
    *, pools: Sequence[Mapping[str, Path | str]], manifests: Sequence[Path | str],
    tables: Mapping[str, tuple[Path | str, Path | str]], manifest: Path | str,
) -> None:  # fmt: skip
    """Write the tables of all pools together, each as parquet and CSV.

    Args:
        pools: parquet file by table, of every pool.
        manifests: their manifests.
        tables: parquet and CSV file by table.
        manifest: manifest.json of the tables.
    """
    described = {}
    for name in VOTING_TABLES:
        table = pa.concat_tables([pq.read_table(pool[name]) for pool in pools])
        described[name] = save(table, *tables[name])
    of = [[facts["run"], facts["stage"]] for facts in (read_manifest(path, POOL) for path in manifests)]
    write_manifest(manifest, TABLES, pools=of, tables=described)


def save(table: pa.Table, parquet: Path | str, text: Path | str) -> dict[str, Any]:
    """Write one table as parquet and CSV; what a manifest says of it."""
    write_parquet(parquet, table)
    complete = write_csv(text, table)
    return {"rows": len(table), "columns": table.column_names, "csv_complete": complete, "digest": file_digest(parquet)}
