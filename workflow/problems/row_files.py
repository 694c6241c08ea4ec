"""Rows of .jsonl, .json and .parquet files, with errors that name the line."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from workflow.config.section import ConfigError

SUFFIXES = (".parquet", ".jsonl", ".json")


def read_rows(path: Path, limit: int | None = None) -> list[dict[str, Any]]:
    """The rows of a file in its order, the first `limit` of them if that is not None.

    Raises:
        ConfigError: the file is missing, of another kind, or not what its name promises.
    """
    if path.suffix not in SUFFIXES:
        raise ConfigError(
            f"problems.source must be a file of the kind {', '.join(SUFFIXES)}, `gsm8k`, `hub:<dataset id>` or "
            f"`reasoning_gym:<dataset>`; got {path}. Convert the file or correct the name."
        )
    if not path.is_file():
        raise ConfigError(
            f"problems.source must be a file that exists; there is none at {path.absolute()}. "
            "Put it there (relative paths start where snakemake is called), or correct problems.source."
        )
    match path.suffix:
        case ".parquet":
            return _parquet_rows(path, limit)
        case ".jsonl":
            return _json_lines(path, limit)
        case _:
            return _json_list(path)[:limit]


def _parquet_rows(path: Path, limit: int | None) -> list[dict[str, Any]]:
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise ConfigError(
            f"{path} must be a parquet file; it cannot be read: {error}. Write it again or choose another file."
        ) from None
    return table.slice(0, limit).to_pylist()


def _json_lines(path: Path, limit: int | None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if limit is not None and len(rows) >= limit:
                break
            if line.strip():
                rows.append(_object(line, f"line {number} of {path}"))
    return rows


def _json_list(path: Path) -> list[dict[str, Any]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path} must be JSON; it is not at line {error.lineno}: {error.msg}. Correct the file.") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ConfigError(
            f"{path} must hold a list of objects; got {_kind(rows)}. Write one object per problem, in a list, or use .jsonl."
        )
    return rows


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"Every line must be a JSON object; {where} is not: {error.msg} at column {error.colno}. Correct it."
        ) from None
    if not isinstance(row, dict):
        raise ConfigError(f"Every line must be a JSON object; {where} is {_kind(row)}. Correct it.")
    return row


def _kind(value: Any) -> str:
    match value:
        case dict():
            return "one object"
        case list():
            return "a list" if all(isinstance(entry, dict) for entry in value) else "a list with other things than objects"
    return f"the single value {value!r}"
