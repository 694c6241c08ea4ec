"""Labels that a user brings: a file with the columns `trace` and perhaps `step` and `run`; every other column is a label.

A label of a trace counts for each of its steps. What a file does not say is missing: rows it lacks, empty cells, numbers that are
not finite, and keys that it holds twice, whose rows may disagree.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from workflow.config.section import ConfigError
from workflow.frames import Table

KEYS = ("run", "trace", "step")
_YES_NO = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False, "1.0": True, "0.0": False}


class UserLabels:
    """The labels of one pool."""

    def __init__(self, path: Path | str, *, run: str, stage: str) -> None:
        """Read a file; rows of other runs and of traces of other stages are left aside.

        Raises:
            ConfigError: it cannot be read, lacks `trace` or a label, or a cell holds more than one value.
        """
        table = _read(Path(path))
        labels = [name for name in table.columns if name not in KEYS]
        if "trace" not in table.columns or not labels:
            raise ConfigError(
                f"{path} must have the column trace and at least one label; it has {', '.join(table.columns) or 'none'}. Name the "
                "column of trace ids `trace`, as in traces.parquet."
            )
        self.kinds = {name: _kind(table[name]) for name in labels}
        """bool, number or text, by label."""
        here = table["trace"].astype(str).str.split("/").str[1] == stage
        if "run" in table.columns:
            here &= table["run"].astype(str) == run
        own = table[here]
        self.by_step = "step" in table.columns
        """Whether labels are of steps, not of traces."""
        keys = [_key(trace, step) for trace, step in zip(own["trace"], _steps(own, path), strict=True)]
        again = pd.Series(keys, dtype=object).duplicated(keep=False).to_numpy(bool)
        self._rows = {key: row for row, (key, twice) in enumerate(zip(keys, again, strict=True)) if not twice}
        self._values = {name: [_value(value, kind) for value in own[name]] for name, kind in self.kinds.items()}
        self._unused = set(self._rows)
        self.counts = {"rows": len(own), "elsewhere": len(table) - len(own), "duplicates": int(again.sum()), "unlabelled": 0}

    def of(self, trace: str, step: int) -> Mapping[str, Any]:
        """The labels of a step, None where there is none."""
        key = _key(trace, step if self.by_step else None)
        row = self._rows.get(key)
        self._unused.discard(key)
        if row is None:
            self.counts["unlabelled"] += 1
            return {}
        return {name: values[row] for name, values in self._values.items()}

    def report(self) -> dict[str, int]:
        """Rows of the file for this pool; those of other runs and stages; those with a key that occurs twice; those whose key no
        step has; steps without a row."""
        return {**self.counts, "unknown": len(self._unused)}


def _read(path: Path) -> Table:
    readers: dict[str, Callable[[Path], Any]] = {
        ".csv": lambda file: pd.read_csv(file, dtype={"trace": str, "run": str}),
        ".jsonl": lambda file: pd.read_json(file, lines=True, dtype=False),  # type: ignore[arg-type]  # not in the stubs
        ".parquet": pd.read_parquet,
    }
    if path.suffix not in readers:
        raise ConfigError(f"A file of labels must end in {', '.join(readers)}; got {path.name}. Convert or rename it.")
    try:
        return readers[path.suffix](path)
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path} must be a readable table of labels; reading failed: {error}. Repair or replace it.") from None


def _steps(table: Table, path: Path | str) -> list[int | None]:
    if "step" not in table.columns:
        return [None] * len(table)
    numbers: Any = pd.to_numeric(table["step"], errors="coerce")
    if bool((numbers.isna() | (numbers % 1 != 0)).any()):
        raise ConfigError(
            f"The column step of {path} must hold whole numbers from 0 in every row; got others. For labels of whole traces leave "
            "the column out."
        )
    return numbers.astype(int).tolist()


def _key(trace: str, step: int | None) -> tuple[str, int | None]:
    return str(trace), step


def _kind(column: Any) -> str:
    found = column.dropna().astype(str)  # a time is a text
    if len(found) and all(value.strip().lower() in _YES_NO for value in found):
        return "bool"
    numbers: Any = pd.to_numeric(found, errors="coerce")
    return "number" if numbers.notna().all() else "text"


def _value(value: Any, kind: str) -> Any:
    if not pd.api.types.is_scalar(value):
        raise ConfigError(f"A label must be one value, a number, a text or true or false; got {value!r}. Write a column for each.")
    if pd.isna(value):
        return None
    text = str(value).strip()
    match kind:
        case "bool":
            return _YES_NO[text.lower()]
        case "number":
            return float(text) if math.isfinite(float(text)) else None
    return str(value)
