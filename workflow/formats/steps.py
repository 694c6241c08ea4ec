"""steps.h5: reasoning steps with their contexts as token ids, for step-level SAEs; beside it `manifest.json` (artefact `steps`).

One HDF5 file. Attributes: `version` (2), `prefix` (ids that every sequence begins with: a BOS or nothing), `separator`, `end`,
`vocab` (entries of the tokenizer, the separator included). Datasets, contiguous so that a step and its context are
read and nothing around them:

- `tokens` [token] int32, without prefix, separator and end;
- `steps/context_start`, `steps/step_start` [step] int64, `steps/context_length`, `steps/step_length` [step] int32:
  where context and step stand in `tokens`; steps of one solution MAY share tokens;
- `steps/solution` [step] int32, rising; `steps/number` [step] int32: the step's number in its solution, from 0, blank ones
  counted;
- `solutions/problem`, `solutions/split`, `solutions/trace` [solution] fixed-length text: id of the problem; train, val or test, ""
  where the source has no splits; id of the trace, "" where the source has none;
- `solutions/line` [solution] int64: line of JSON Lines from 1, row of traces.parquet from 0;
- `solutions/strict`, `solutions/flexible` [solution] int8: verdict of the answer rules, 1 or 0, −1 where there is none.

A sequence is `prefix, context, separator, step, end`; `StepStore.batch` makes them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from sae_core.models.step_batch import StepBatch
from workflow.config.section import ConfigError
from workflow.formats.files import replacing

ARTEFACT, FILE, VERSION = "steps", "steps.h5", 2
STEP_COLUMNS = {
    "context_start": np.int64, "context_length": np.int32, "step_start": np.int64, "step_length": np.int32,
    "solution": np.int32, "number": np.int32,
}  # fmt: skip
SOLUTION_COLUMNS = {
    "problem": np.bytes_, "split": np.bytes_, "trace": np.bytes_, "line": np.int64, "strict": np.int8, "flexible": np.int8,
}  # fmt: skip
TYPES = {
    "tokens": np.int32, **{f"steps/{name}": kind for name, kind in STEP_COLUMNS.items()},
    **{f"solutions/{name}": kind for name, kind in SOLUTION_COLUMNS.items()},
}  # fmt: skip
"""Every dataset of the file."""
SHIFTED = {"steps/context_start": "tokens", "steps/step_start": "tokens", "steps/solution": "solutions/line"}
"""Columns that count places in another dataset, and therefore begin behind the pieces before theirs."""

Columns = Mapping[str, np.ndarray]


def write_steps(path: Path | str, pieces: Sequence[Path], *, prefix: Sequence[int], separator: int, end: int, vocab: int) -> None:
    """Join pieces (`.npz` with every dataset of the format, places counted within the piece) into one file, in one step."""
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update({"version": VERSION, "separator": separator, "end": end, "vocab": vocab})
        file.attrs["prefix"] = np.array(prefix, dtype=np.int32)
        for name in TYPES:
            _join(file, name, pieces)


def _join(file: h5py.File, name: str, pieces: Sequence[Path]) -> None:
    sizes, widths, shifts = [], [np.dtype(TYPES[name])], []
    for piece in pieces:
        with np.load(piece) as arrays:
            sizes.append(len(arrays[name]))
            widths.append(arrays[name].dtype)
            shifts.append(len(arrays[SHIFTED[name]]) if name in SHIFTED else 0)
    kind = max(widths, key=lambda width: width.itemsize) if TYPES[name] is np.bytes_ else widths[0]
    whole = file.create_dataset(name, (sum(sizes),), kind if kind.itemsize else "S1")
    begin = shift = 0
    for piece, size, behind in zip(pieces, sizes, shifts, strict=True):
        with np.load(piece) as arrays:
            if size:
                whole[begin : begin + size] = arrays[name] + arrays[name].dtype.type(shift) if name in SHIFTED else arrays[name]
        begin, shift = begin + size, shift + behind


class StepStore:
    """A steps.h5 open for reading; tokens stay on the disk, where a step and its context are and how long (28 bytes) in memory.

    Every process opens its own.
    """

    def __init__(self, path: Path | str) -> None:
        """
        Raises:
            ConfigError: the file is missing or no steps.h5 of this version.
        """
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            raise _damaged(path, str(error).splitlines()[0]) from None
        found = self._file.attrs.get("version")
        if found != VERSION or any(name not in self._file for name in TYPES):
            lacking = [name for name in TYPES if name not in self._file]
            self._file.close()
            raise _damaged(path, f"version {found}, missing {', '.join(lacking) or 'nothing'}")
        attributes: Any = self._file.attrs
        self.prefix = np.asarray(attributes["prefix"], dtype=np.int64)
        self.separator, self.end, self.vocab = (int(attributes[name]) for name in ("separator", "end", "vocab"))
        self._tokens: Any = self._file["tokens"]
        self._starts = [self.column(f"steps/{name}") for name in ("context_start", "step_start")]
        self.context_length, self.step_length = (self.column(f"steps/{name}") for name in ("context_length", "step_length"))
        self.solution = self.column("steps/solution")

    def __len__(self) -> int:
        """Steps."""
        return len(self.solution)

    def __enter__(self) -> "StepStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def column(self, name: str) -> np.ndarray:
        """A dataset of the format as a whole, by its path in the file; texts as bytes."""
        dataset: Any = self._file[name]
        return dataset[:]

    def lengths(self) -> np.ndarray:
        """Tokens of every step's sequence, separator and end included."""
        return len(self.prefix) + self.context_length + 1 + self.step_length + 1

    def of_step(self, name: str) -> np.ndarray:
        """A column of solutions, such as `problem` or `strict`, for every step."""
        return self.column(f"solutions/{name}")[self.solution]

    def context_ids(self, step: int) -> np.ndarray:
        """Ids of one context, without the prefix."""
        return self._read(self._starts[0], self.context_length, step)

    def step_ids(self, step: int) -> np.ndarray:
        """Ids of one step, without the end."""
        return self._read(self._starts[1], self.step_length, step)

    def batch(self, steps: Sequence[int] | np.ndarray, /, *, pad: int | None = None) -> StepBatch:
        """The sequences of these steps, in this order.

        Args:
            pad: id behind the end of shorter ones; None: the end token.
        """
        picked = np.asarray(steps, dtype=np.int64)
        front = len(self.prefix)
        start = front + self.context_length[picked].astype(np.int64) + 1
        length = start + self.step_length[picked] + 1
        ids = np.full((len(picked), int(length.max(initial=0))), self.end if pad is None else pad, dtype=np.int64)
        ids[:, :front] = self.prefix[: ids.shape[1]]
        for row, step in enumerate(picked.tolist()):
            ids[row, front : start[row] - 1] = self.context_ids(step)
            ids[row, start[row] - 1] = self.separator
            ids[row, start[row] : length[row] - 1] = self.step_ids(step)
            ids[row, length[row] - 1] = self.end
        return StepBatch(torch.from_numpy(ids), torch.from_numpy(start), torch.from_numpy(length))

    def _read(self, starts: np.ndarray, lengths: np.ndarray, step: int) -> np.ndarray:
        begin = int(starts[step])
        return self._tokens[begin : begin + int(lengths[step])]


def _damaged(path: Path | str, found: str) -> ConfigError:
    return ConfigError(
        f"{path} must be a whole steps.h5 of version {VERSION}, see workflow/formats/steps.py; {found}. "
        "Delete it and run again, it will be rebuilt."
    )
