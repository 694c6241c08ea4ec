"""labels.parquet: one row per reasoning step of a set of traces, with what is known of it; null is missing, never 0.

Rows in the order of the traces, step by step. Columns: `KEYS`, which features of the same steps carry too, the text of the step,
and labels, each of which MAY be null. Columns of the user stand behind them, boolean, float64 or text, under names of their own.
Beside it `manifest.json` (artefact `step_labels`): `traces` (digest), `steps`, `known` (rows by label where it is not null), what
the makers of labels counted, and `digest`.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, final

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from workflow.config.section import ConfigError
from workflow.formats.files import replacing
from workflow.formats.parquet import ROWS_PER_GROUP
from workflow.frames import Table

ARTEFACT = "step_labels"
KEYS = pa.schema(
    [
        ("problem", pa.string()),
        ("group", pa.string()),
        ("split", pa.string()),
        ("trace", pa.string()),
        ("sample", pa.int32()),
        ("step", pa.int32()),
        ("steps", pa.int32()),
        ("tokens", pa.int32()),
    ]
)
"""Which step it is: `group` is that of near-duplicates in problems.parquet, `step` counts from 0, `steps` are those of its trace,
`tokens` its own, the end of the turn included."""
LABELS = pa.schema(
    [
        ("correct", pa.bool_()),
        ("correct_how", pa.string()),
        ("after_first_error", pa.bool_()),
        ("logical", pa.bool_()),
        ("length", pa.int32()),
        ("first_token", pa.int32()),
        ("next_first_token", pa.int32()),
        ("final_strict", pa.bool_()),
        ("final_flexible", pa.bool_()),
        ("value", pa.float64()),
        ("judge_correct", pa.bool_()),
        ("judge_logical", pa.bool_()),
    ]
)
"""`correct`: every equation of the step is true, or the final answer it gives is right, `correct_how` says which was looked at
(`annotation`, `arithmetic`, `final_answer`); `after_first_error`: an earlier step of the trace is not correct; `logical`: all
operands of the step's equations were there before; `length` in tokens, the end of the turn left out; `first_token` of the step
itself and `next_first_token` of the one behind it, null at the last; `final_strict` and `final_flexible`: verdicts on the trace;
`value`: share of continuations from the end of the step that reach the right answer; `judge_correct` and `judge_logical`: what an
endpoint said."""
SCHEMA = pa.schema([*KEYS, ("text", pa.string()), *LABELS])
USER_TYPES = {"bool": pa.bool_(), "number": pa.float64(), "text": pa.string()}
_NULLABLE = {
    pa.bool_(): pd.BooleanDtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.float64(): pd.Float64Dtype(),
    pa.string(): pd.StringDtype(),
}


@final
class StepLabelWriter:
    """Writes rows as they come, a group of them in memory at a time; within `with`, and there only if nothing was raised."""

    def __init__(self, path: Path | str, user: Mapping[str, str] | None = None) -> None:
        """`user`: more columns, name to one of USER_TYPES.

        Raises:
            ConfigError: a name is taken.
        """
        user = dict(user or {})
        if taken := sorted(set(user) & set(SCHEMA.names)):
            raise ConfigError(
                f"A label column must have a name of its own, none of {', '.join(SCHEMA.names)}; got {', '.join(taken)}. "
                "Rename the column in the file of probes.labels."
            )
        told = {"artefact": ARTEFACT, "user": json.dumps(list(user))}
        self._schema = pa.schema([*SCHEMA, *((name, USER_TYPES[kind]) for name, kind in user.items())], metadata=told)
        self._replacing = replacing(path)
        self._waiting: list[Mapping[str, Any]] = []
        self._file: pq.ParquetWriter | None = None

    def __enter__(self) -> "StepLabelWriter":
        self._file = pq.ParquetWriter(self._replacing.__enter__(), self._schema, compression="zstd")
        return self

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Rows that come next; a column that one lacks is null there."""
        for row in rows:
            self._waiting.append(row)
            if len(self._waiting) == ROWS_PER_GROUP:
                self._write()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._file is not None
        if kind is None and self._waiting:
            self._write()
        self._file.close()
        self._replacing.__exit__(kind, error, trace)

    def _write(self) -> None:
        assert self._file is not None
        self._file.write_table(pa.Table.from_pylist([dict(row) for row in self._waiting], schema=self._schema))
        self._waiting.clear()


def read_step_labels(path: Path | str, columns: Iterable[str] | None = None) -> Table:
    """The table, or some of its columns, in pandas' nullable types: what is missing is `pd.NA`.

    Raises:
        ConfigError: the file is damaged, no table of step labels, or lacks a column.
    """
    schema = _schema_of(path)
    wanted = schema.names if columns is None else list(columns)
    if unknown := [name for name in wanted if name not in schema.names]:
        raise ConfigError(
            f"{path} must hold the label columns {', '.join(wanted)}; {', '.join(unknown)} is missing. Labels there: "
            f"{', '.join(label_names(path))}. Correct the name, or add the column with probes.labels."
        )
    return pq.read_table(path, columns=wanted).to_pandas(types_mapper=_NULLABLE.get)


def label_names(path: Path | str) -> list[str]:
    """Names of all labels of a file, those of the user last.

    Raises:
        ConfigError: as read_step_labels.
    """
    return [*(name for name in LABELS.names if name != "correct_how"), *user_names(path)]


def user_names(path: Path | str) -> list[str]:
    """Names of the columns that the user added.

    Raises:
        ConfigError: as read_step_labels.
    """
    return json.loads(_schema_of(path).metadata[b"user"])


def _schema_of(path: Path | str) -> pa.Schema:
    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise _foreign(path, str(error).splitlines()[0]) from None
    if (schema.metadata or {}).get(b"artefact") != ARTEFACT.encode():
        raise _foreign(path, f"a table with the columns {', '.join(schema.names)}")
    own = schema.names[: len(SCHEMA)]
    if own != SCHEMA.names or [schema.field(name).type for name in own] != SCHEMA.types:
        raise _foreign(path, f"one with the columns {', '.join(schema.names)}")
    return schema


def _foreign(path: Path | str, found: str) -> ConfigError:
    return ConfigError(
        f"{path} must be a whole table of step labels, see workflow/formats/step_labels.py; found {found}. Delete it and run "
        "again, it will be rebuilt."
    )
