"""features.h5: sets of features of the reasoning steps of a set of traces, at one layer of one policy.

One HDF5 file. Attributes: `artefact` ("step_features"), `version` (1), and what the maker tells: run, text, stage, layer, digests
of traces and policy. Datasets:

- `steps/<column>` [step]: the keys of `workflow/formats/step_labels.py`, in the order of the traces, step by step; texts of fixed
  length in UTF-8;
- `sets/<name>/values` [step, width] float32, a dense set; or `sets/<name>/{indptr,indices,values}`, int64, int32 and float32, a
  sparse one in rows (CSR, indices rising, no zeros). Attributes of a set: `form` (dense or sparse), `width`, and what the maker
  tells: pooling over the tokens of a step, digest of the SAE. A step none of whose tokens counts has zeros.

Beside it `manifest.json` (artefact `step_features`): the same facts, `sets` (width and form by name), `steps`, `digest`.
A job makes the file of blocks of consecutive steps, each of which it keeps as a piece (`.npz`) until all are there.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from workflow.config.section import ConfigError
from workflow.formats.files import replacing
from workflow.formats.step_labels import KEYS
from workflow.frames import Table

ARTEFACT, VERSION = "step_features", 1
DENSE, SPARSE = "dense", "sparse"
TEXTS = ("problem", "group", "split", "trace")
"""Keys that are text."""
Features = Any
"""[step, width]: an array where it is dense, a `csr_array` where it is sparse; checkers know too little of the latter."""


class StepBlock(NamedTuple):
    """Consecutive steps."""

    steps: Mapping[str, Any]
    """Every column of KEYS, a sequence each."""
    sets: Mapping[str, Features]
    """By name, [step, width]; the same names and widths in every block."""


class FeatureSet(NamedTuple):
    """What is known of a set without its numbers."""

    form: str
    """dense or sparse."""
    width: int
    facts: dict[str, Any]
    """pooling, digest, seed…"""


class Written(NamedTuple):
    """What was written."""

    steps: int
    sets: dict[str, FeatureSet]
    """By name."""


def write_step_features(
    path: Path | str,
    blocks: Iterable[StepBlock],
    *,
    facts: Mapping[str, Any],
    of_sets: Mapping[str, Mapping[str, Any]] | None = None,
) -> Written:
    """Write blocks as one file in one step, one block in memory at a time.

    Args:
        blocks: in their order; gone through twice, first for sizes, so not a generator.
        facts: attributes of the file; numbers and texts.
        of_sets: attributes of the sets, by name.

    Raises:
        ValueError: two blocks differ in names, forms or widths of their sets, or a block has not one row per step.
    """
    sizes, told = _Sizes(), of_sets or {}
    for block in blocks:
        sizes.add(block)
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update({"artefact": ARTEFACT, "version": VERSION, **facts})
        for name, kind in sizes.keys.items():
            file.create_dataset(f"steps/{name}", (sizes.steps,), kind)
        for name, (form, width) in sizes.sets.items():
            group = file.create_group(f"sets/{name}")
            group.attrs.update({"form": form, "width": width, **told.get(name, {})})
            _make_room(group, form, sizes.steps, width, sizes.entries[name])
        first, entries = 0, dict.fromkeys(sizes.sets, 0)
        for block in blocks:
            behind = first + _count(block)
            for name in KEYS.names:
                file[f"steps/{name}"][first:behind] = _column(name, block.steps[name])  # type: ignore[index]  # a dataset
            for name, rows in block.sets.items():
                entries[name] += _put(file[f"sets/{name}"], rows, first, entries[name])
            first = behind
    described = {name: FeatureSet(form, width, dict(told.get(name, {}))) for name, (form, width) in sizes.sets.items()}
    return Written(sizes.steps, described)


class StepFeatures:
    """A features.h5 open for reading; a set is read when it is asked for."""

    def __init__(self, path: Path | str) -> None:
        """
        Raises:
            ConfigError: the file is missing, damaged or foreign.
        """
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            raise _foreign(path, str(error).splitlines()[0]) from None
        attributes: Any = self._file.attrs
        found = (_plain(attributes.get("artefact")), _plain(attributes.get("version")))
        lacking = [name for name in KEYS.names if f"steps/{name}" not in self._file]
        if found != (ARTEFACT, VERSION) or lacking:
            self._file.close()
            raise _foreign(path, f"artefact and version {found}, without {', '.join(lacking) or 'nothing'}")
        self.path = Path(path)
        self.facts: dict[str, Any] = {name: _plain(value) for name, value in attributes.items()}
        """Attributes of the file."""
        groups: Any = self._file.get("sets", {})
        self.sets = {name: _described(group) for name, group in sorted(groups.items())}
        """What is known of each set, by name."""

    @property
    def names(self) -> list[str]:
        """Names of the sets."""
        return list(self.sets)

    @property
    def steps(self) -> Table:
        """The keys of every step."""
        columns: dict[str, Any] = {name: self._file[f"steps/{name}"] for name in KEYS.names}
        texts = {name: np.char.decode(columns[name][:], "utf-8").astype(object) for name in TEXTS}
        return pd.DataFrame({name: texts[name] if name in texts else column[:] for name, column in columns.items()})

    def matrix(self, name: str) -> Features:
        """One set, [step, width] float32.

        Raises:
            ConfigError: there is none of that name.
        """
        if name not in self.sets:
            raise ConfigError(
                f"{self.path} must hold the feature set {name}; it holds {', '.join(self.names) or 'none'}. Name one of these, or "
                "ask for it in probes.features and run again."
            )
        group: Any = self._file[f"sets/{name}"]
        if self.sets[name].form == DENSE:
            return group["values"][:]
        parts = tuple(group[part][:] for part in ("values", "indices", "indptr"))
        return csr_array(parts, shape=(len(parts[2]) - 1, self.sets[name].width))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> "StepFeatures":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Sizes:
    """What is to be written, without its numbers."""

    def __init__(self) -> None:
        self.steps = 0
        self.keys: dict[str, np.dtype] = {name: np.dtype("S1") if name in TEXTS else np.dtype(np.int32) for name in KEYS.names}
        self.sets: dict[str, tuple[str, int]] = {}
        self.entries: dict[str, int] = {}

    def add(self, block: StepBlock) -> None:
        count = _count(block)
        shapes = {name: (DENSE if isinstance(rows, np.ndarray) else SPARSE, rows.shape[1]) for name, rows in block.sets.items()}
        if self.steps and shapes != self.sets:
            raise ValueError(f"Every block must have the sets {self.sets}; got {shapes}. Make all blocks in the same way.")
        if uneven := [name for name, rows in block.sets.items() if rows.shape[0] != count]:
            raise ValueError(f"A set must have a row for each of the {count} steps of its block; {', '.join(uneven)} have not.")
        self.sets = shapes
        self.steps += count
        for name in TEXTS:
            kind = _column(name, block.steps[name]).dtype
            self.keys[name] = max(self.keys[name], kind, key=lambda one: one.itemsize)
        for name, rows in block.sets.items():
            self.entries[name] = self.entries.get(name, 0) + (0 if isinstance(rows, np.ndarray) else rows.nnz)


def _count(block: StepBlock) -> int:
    return len(block.steps[KEYS.names[0]])


def _column(name: str, values: Any) -> np.ndarray:
    if name not in TEXTS:
        return np.asarray(values, dtype=np.int32)
    encoded = np.array([str(value).encode() for value in values], dtype=np.bytes_)
    return encoded if encoded.dtype.itemsize else encoded.astype("S1")


def _make_room(group: h5py.Group, form: str, steps: int, width: int, entries: int) -> None:
    if form == DENSE:
        group.create_dataset("values", (steps, width), np.float32)
        return
    group.create_dataset("indptr", (steps + 1,), np.int64)
    group.create_dataset("indices", (entries,), np.int32)
    group.create_dataset("values", (entries,), np.float32)


def _put(group: Any, rows: Features, first: int, entries: int) -> int:
    """Write the rows of a block behind `first` steps and `entries` numbers; how many numbers it has, of a dense set 0."""
    behind = first + rows.shape[0]
    if isinstance(rows, np.ndarray):
        group["values"][first:behind] = rows
        return 0
    rows = rows.copy()
    rows.sort_indices()
    group["indptr"][first + 1 : behind + 1] = entries + rows.indptr[1:].astype(np.int64)
    group["indices"][entries : entries + rows.nnz] = rows.indices
    group["values"][entries : entries + rows.nnz] = rows.data
    return rows.nnz


def _described(group: Any) -> FeatureSet:
    facts = {name: _plain(value) for name, value in group.attrs.items()}
    return FeatureSet(facts.pop("form"), facts.pop("width"), facts)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _foreign(path: Path | str, found: str) -> ConfigError:
    return ConfigError(
        f"{path} must be a whole features.h5 of version {VERSION}, see workflow/formats/step_features.py; found {found}. "
        "Delete it and run again, it will be rebuilt."
    )
