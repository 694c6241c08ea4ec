"""Blocks of step features as a job keeps them until all are there: `piece_000000.npz`, …, joined into features.h5 at its end."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from workflow.formats.files import replacing
from workflow.formats.step_features import Features, StepBlock
from workflow.formats.step_labels import KEYS

PARTS = ("data", "indices", "indptr", "shape")
"""Arrays of a sparse set."""


class Pieces:
    """The first blocks of a folder; iterated over as often as one likes, each is read when it is its turn."""

    def __init__(self, folder: Path, count: int) -> None:
        self._files = [piece_file(folder, number) for number in range(count)]

    def __iter__(self) -> Iterator[StepBlock]:
        return map(read_piece, self._files)


def piece_file(folder: Path, number: int) -> Path:
    """The file of one block."""
    return folder / f"piece_{number:06d}.npz"


def write_piece(path: Path, block: StepBlock) -> None:
    """Write one block in one step."""
    arrays = {f"steps/{name}": np.asarray(block.steps[name]) for name in KEYS.names}
    for name, rows in block.sets.items():
        if isinstance(rows, np.ndarray):
            arrays[f"dense/{name}"] = rows
        else:
            arrays |= {f"sparse/{name}/{part}": np.asarray(getattr(rows, part)) for part in PARTS}
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **arrays)


def read_piece(path: Path) -> StepBlock:
    """The block of a file; its texts are numpy strings."""
    with np.load(path) as arrays:
        steps = {name: arrays[f"steps/{name}"] for name in KEYS.names}
        sets: dict[str, Features] = {}
        for key in arrays.files:
            form, _, rest = key.partition("/")
            if form == "dense":
                sets[rest] = arrays[key]
            elif form == "sparse" and key.endswith("/data"):
                name = rest.removesuffix("/data")
                data, indices, indptr, shape = (arrays[f"sparse/{name}/{part}"] for part in PARTS)
                sets[name] = csr_array((data, indices, indptr), shape=tuple(shape))
    return StepBlock(steps, sets)
