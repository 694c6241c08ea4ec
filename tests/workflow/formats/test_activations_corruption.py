"""Damage of every sort is found on reading, named, and can be set aside."""

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import zarr
from small_stores import make_store

from workflow.formats.activations import CorruptShard, OpenShard, ShuffledBatches, Store, set_aside
from workflow.formats.files import file_digest
from workflow.formats.rows import with_norms, write_rows
from workflow.formats.shards import ShardFiles, shard_files


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def chunk(files: ShardFiles, number: int = 1) -> Path:
    return files.array / "c" / str(number) / "0"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def shorten_rows(files: ShardFiles) -> None:
    pq.write_table(pq.read_table(files.rows).slice(0, 30), files.rows)


def claim_other_rows(files: ShardFiles) -> None:
    facts = json.loads(files.manifest.read_text())
    files.manifest.write_text(json.dumps(facts | {"rows": facts["rows"] - 1}))


SEEN_AT_ONCE: dict[str, tuple[Callable[[ShardFiles], object], str]] = {
    "missing chunk": (lambda files: chunk(files).unlink(), "must hold 3 chunks; 1 of them are missing"),
    "missing array": (lambda files: shutil.rmtree(files.array), "readable zarr array"),
    "broken metadata": (lambda files: truncate(files.array / "zarr.json"), "readable zarr array"),
    "missing row table": (lambda files: files.rows.unlink(), "row table beside it"),
    "flipped bit in the row table": (lambda files: flip_a_bit(files.rows), "has another digest"),
    "row table of another length": (shorten_rows, "has another digest"),
    "manifest of another length": (claim_other_rows, "must have a row table of 39 rows"),
    "broken manifest": (lambda files: truncate(files.manifest), "manifest in JSON"),
}  # fmt: skip
SEEN_ON_READING: dict[str, tuple[Callable[[ShardFiles], object], str]] = {
    "flipped bit": (lambda files: flip_a_bit(chunk(files)), "intact in chunk 1; .*checksum"),
    "truncated chunk": (lambda files: truncate(chunk(files)), "intact in chunk 1; .*checksum"),
    "empty chunk": (lambda files: chunk(files).write_bytes(b""), "intact in chunk 1"),
}


@pytest.mark.parametrize("damage", SEEN_AT_ONCE)
def test_damage_is_seen_when_the_store_is_opened(tmp_path: Path, damage: str):
    manifests, _ = make_store(tmp_path, [40, 40])
    act, message = SEEN_AT_ONCE[damage]
    act(shard_files(manifests[1]))
    with pytest.raises(CorruptShard, match=message) as caught:
        Store(manifests)
    assert caught.value.manifest == manifests[1]
    assert "shard_001.zarr" in str(caught.value)
    assert "--set-aside" in str(caught.value)


@pytest.mark.parametrize("damage", SEEN_ON_READING)
def test_damage_is_seen_when_the_chunk_is_read(tmp_path: Path, damage: str):
    manifests, _ = make_store(tmp_path, [40, 40])
    act, message = SEEN_ON_READING[damage]
    act(shard_files(manifests[1]))
    store = Store(manifests)
    for read in (store.read, lambda: list(store.sequential(10)), lambda: next(iter(ShuffledBatches(store, 80, 16, seed=0)))):
        with pytest.raises(CorruptShard, match=message) as caught:
            read()
        assert caught.value.manifest == manifests[1]


def test_a_row_table_that_fits_its_digest_but_not_the_array_is_found(tmp_path: Path):
    manifests, _ = make_store(tmp_path, [40, 30])
    long, short = map(shard_files, manifests)
    facts = json.loads(short.manifest.read_text())
    shutil.copy(long.rows, short.rows)
    facts |= {"rows": 40, "rows_digest": json.loads(long.manifest.read_text())["rows_digest"]}
    short.manifest.write_text(json.dumps(facts))
    with pytest.raises(CorruptShard, match=r"must have shape and type \(\[40, 8\]"):
        Store(manifests)


def test_a_chunk_that_vanishes_under_an_open_store_is_not_read_as_zeros(tmp_path: Path):
    manifests, _ = make_store(tmp_path, [40])
    store = Store(manifests)
    chunk(shard_files(manifests[0])).unlink()
    with pytest.raises(CorruptShard, match="hold chunk 1; it vanished"):
        store.read()


def test_a_chunk_in_the_place_of_another_is_found_by_the_digest_on_demand(tmp_path: Path):
    manifests, _ = make_store(tmp_path, [40])
    files = shard_files(manifests[0])
    shutil.copy(chunk(files, 0), chunk(files, 1))  # its checksum is right
    Store(manifests).read()
    with pytest.raises(CorruptShard, match="must have the digest"):
        OpenShard(manifests[0]).verify()


def rewrite_norms(files: ShardFiles, norms: dict[int, float]) -> None:
    table = pq.read_table(files.rows)
    column = table["norm"].to_numpy().copy()
    column[list(norms)] = list(norms.values())
    write_rows(files.rows, with_norms(table, column))
    facts = json.loads(files.manifest.read_text())
    files.manifest.write_text(json.dumps(facts | {"rows_digest": file_digest(files.rows)}))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_rows_whose_norms_are_no_numbers_are_named_and_not_dropped(tmp_path: Path, value: float):
    manifests, _ = make_store(tmp_path, [40, 30])
    rewrite_norms(shard_files(manifests[1]), {9: value, 12: value})
    message = r"shard_001\.zarr must hold finite rows only; row 9 \(trace p.*/base/\d, position 0\) and 1 more have norms"
    with pytest.raises(CorruptShard, match=message):
        Store(manifests)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_row_whose_values_are_no_numbers_is_named_when_it_is_read(tmp_path: Path, dtype: str):
    manifests, _ = make_store(tmp_path, [40, 30], dtype=dtype)
    array = zarr.open_array(shard_files(manifests[1]).array, mode="r+")
    row = array[18]
    row[3] = 0x7FC0 if dtype == "bfloat16" else np.nan
    array[18] = row
    store = Store(manifests)
    message = r"shard_001\.zarr must hold finite rows only; row 18 \(trace p.*, position \d\) and 0 more have values"
    for read in (store.read, lambda: list(itertools.islice(ShuffledBatches(store, 5, 20, seed=0), 14))):
        with pytest.raises(CorruptShard, match=message):
            read()


def test_large_values_whose_sum_leaves_the_format_are_read(tmp_path: Path):
    manifests, values = make_store(tmp_path, [40], dtype="float16", sink=20000, seed=22)
    assert not torch.isfinite(values[:16].half().sum()), "the test must cover a chunk whose sum is no number"
    assert torch.equal(Store(manifests).read(), values)


def test_a_sound_shard_verifies(tmp_path: Path):
    manifests, _ = make_store(tmp_path, [40])
    OpenShard(manifests[0]).verify()


def test_another_artefacts_manifest_is_not_called_corrupt(tmp_path: Path):
    manifests, _ = make_store(tmp_path, [40])
    manifests[0].write_text(json.dumps({"format": "saedrift", "version": 1, "artefact": "sae"}))
    with pytest.raises(ValueError, match="must be a manifest of") as caught:
        Store(manifests)
    assert not isinstance(caught.value, CorruptShard)


def test_setting_aside_renames_array_and_manifest_of_one_shard(tmp_path: Path):
    manifests, _ = make_store(tmp_path, [40, 40])
    for _ in range(2):  # an older one in the way is replaced
        set_aside(manifests[0])
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "shard_000.json.corrupt", "shard_000.rows.parquet", "shard_000.zarr.corrupt",
            "shard_001.json", "shard_001.rows.parquet", "shard_001.zarr",
        ]  # fmt: skip
        make_store(tmp_path, [40, 40])
        assert len(Store(manifests)) == 80
