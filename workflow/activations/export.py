"""Write a store as one plain file: a matrix of activations and the columns that say what its rows are.

python -m workflow.activations.export results/activations/shared/fixed/base/layer_10/heldout --to base_layer_10.h5

.h5     dataset `activations` [row, d_model]; group `rows` with step, pos, token, role, norm, and problem, split, trace as numbers
        into the lists of group `names`. HDF5 has no bfloat16: such stores are widened to float32, which is exact.
.safetensors  the same tensors, bfloat16 kept; the lists of names stand in the metadata as JSON.
"""

import argparse
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from workflow.activations.shard_search import manifests_below
from workflow.config.section import ConfigError
from workflow.formats.activations import RowFilter, Store
from workflow.formats.files import replacing
from workflow.progress import Progress

log = logging.getLogger(__name__)
NAMES = ("problem", "split", "trace")
NUMBERS = ("step", "pos", "token", "role", "norm")
IN_SAFETENSORS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int32": "I32", "int16": "I16", "int8": "I8"}


def columns(store: Store) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """Columns of the rows as numbers, and what the numbers of `problem`, `split` and `trace` stand for."""
    rows = store.rows
    coded = {name: rows[name].cat.codes.to_numpy().astype(np.int32) for name in NAMES}
    numbers = {name: rows[name].to_numpy() for name in NUMBERS}
    return coded | numbers, {name: list(map(str, rows[name].cat.categories)) for name in NAMES}


def facts(store: Store) -> dict[str, Any]:
    """What the matrix is: model and text, layer, hook point, and how much the row filter dropped."""
    first = store.manifests[0]
    told = {
        name: first[name] for name in ("run", "text", "stage", "model_digest", "text_digest", "tokenizer_digest") if name in first
    }
    return told | {
        "layer": store.layer, "hook_point": store.hook_point, "dropped_share": store.dropped_share,
        "shard_digests": json.dumps([manifest["digest"] for manifest in store.manifests]),
    }  # fmt: skip


def write_hdf5(store: Store, path: Path, advance: Callable[[int], None]) -> None:
    """Stream a store into one HDF5 file, a chunk at a time."""
    numbers, names = columns(store)
    dtype = "float16" if store.manifests[0]["dtype"] == "float16" else "float32"
    with h5py.File(path, "w") as file:
        file.attrs.update(facts(store))
        matrix = file.create_dataset("activations", (len(store), store.d_model), dtype)
        for name, values in numbers.items():
            file.create_dataset(f"rows/{name}", data=values)
        for name, texts in names.items():
            file.create_dataset(f"names/{name}", data=texts, dtype=h5py.string_dtype())
        for piece in store.pieces:
            values = store.read_stored(piece)
            values = values.to(torch.float32) if values.dtype == torch.bfloat16 else values
            matrix[piece.start : piece.start + len(values)] = values.numpy()
            advance(len(values))


def write_safetensors(store: Store, path: Path, advance: Callable[[int], None]) -> None:
    """Stream a store into one safetensors file, a chunk at a time: the header is known before the rows are read."""
    numbers, names = columns(store)
    dtype = store.manifests[0]["dtype"]
    width = 4 if dtype == "float32" else 2
    parts = [("activations", width, dtype, [len(store), store.d_model])]
    parts += [(name, values.itemsize, str(values.dtype), [len(store)]) for name, values in numbers.items()]
    parts.sort(key=lambda part: -part[1])  # wide types first keeps every tensor aligned
    header: dict[str, Any] = {"__metadata__": {name: str(value) for name, value in facts(store).items()}}
    header["__metadata__"] |= {f"{name}_names": json.dumps(texts) for name, texts in names.items()}
    end = 0
    for name, size, kind, shape in parts:
        start, end = end, end + size * int(np.prod(shape))
        header[name] = {"dtype": IN_SAFETENSORS[kind], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, *_ in parts:
            if name != "activations":
                file.write(numbers[name].tobytes())
                continue
            for piece in store.pieces:
                values = store.read_stored(piece).contiguous()
                file.write(values.view(torch.uint8).numpy().data)
                advance(len(values))


WRITERS = {".h5": write_hdf5, ".hdf5": write_hdf5, ".safetensors": write_safetensors}


def export(places: Sequence[Path], target: Path, keep: RowFilter | None = None, splits: Sequence[str] | None = None) -> int:
    """Write the stores in `places`, one below the other, as one file; the number of rows.

    Raises:
        ConfigError: an unknown ending, an existing target, no or mixed shards, a damaged shard.
    """
    if target.suffix not in WRITERS:
        raise ConfigError(f"The target must end in {', '.join(WRITERS)}; got {target}. Choose one of these formats.")
    if target.exists():
        raise ConfigError(f"The target must not exist yet; {target} does. Remove it or choose another name.")
    store = Store(manifests_below(places), keep, splits)
    with replacing(target) as temporary, Progress(len(store), "export", "rows") as progress:
        try:
            WRITERS[target.suffix](store, temporary, progress.advance)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    return len(store)


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when the file is written, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m workflow.activations.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stores", type=Path, nargs="+", help="folders of shards of one layer, or their shard_<n>.json")
    parser.add_argument("--to", type=Path, required=True, help="the file to write: .h5, .hdf5 or .safetensors")
    parser.add_argument("--split", action="append", help="only rows of this split; may be given more than once")
    parser.add_argument("--skip-positions", type=int, default=0, help="leave out so many positions at the start of every text")
    parser.add_argument(
        "--max-norm-multiple", type=float, default=float("inf"), help="leave out rows above this multiple of the median norm"
    )
    options = parser.parse_args(arguments)
    keep = RowFilter(options.skip_positions, options.max_norm_multiple)
    try:
        rows = export(options.stores, options.to, keep, options.split)
    except ConfigError as error:
        log.error("%s", error)
        return 1
    log.info("%s: %d rows", options.to, rows)
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(main())
