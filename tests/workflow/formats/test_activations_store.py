"""What the reader gives back: exact values, the row filter, splits, batches in storage order."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from small_stores import TEXT, make_store, row_table

from workflow.config.section import ConfigError
from workflow.formats.activations import RowFilter, Store
from workflow.formats.files import folder_digest
from workflow.formats.shards import shard_files, write_shard


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_values_and_rows_come_back_exactly(tmp_path: Path, dtype: str):
    manifests, values = make_store(tmp_path, [50, 33], dtype=dtype)
    store = Store(manifests)
    assert torch.equal(store.read(), values)
    assert len(store) == 83
    assert (store.d_model, store.layer, store.hook_point) == (8, 3, "blocks.3.hook_resid_post")
    assert store.rows["token"].tolist() == (np.arange(83) % 500).tolist()
    assert np.allclose(store.rows["norm"], values.norm(dim=1), rtol=1e-6)
    assert store.dropped_share == 0


def test_the_array_is_plain_chunks_with_a_checksum_and_nothing_else(tmp_path: Path):
    manifests, values = make_store(tmp_path, [40], dtype="bfloat16")
    array = zarr.open_array(shard_files(manifests[0]).array, mode="r")
    meta = json.loads((shard_files(manifests[0]).array / "zarr.json").read_text())
    assert meta["zarr_format"] == 3
    assert [codec["name"] for codec in meta["codecs"]] == ["bytes", "crc32c"]
    assert array.dtype == np.uint16
    assert array.chunks == (16, 8)
    assert dict(array.attrs) == {"logical_dtype": "bfloat16", "hook_point": "blocks.3.hook_resid_post", "layer": 3}
    assert torch.equal(torch.from_numpy(array[:]).view(torch.bfloat16).float(), values)


def test_the_same_rows_give_the_same_bytes(tmp_path: Path):
    first, _ = make_store(tmp_path / "a", [40, 9])
    second, _ = make_store(tmp_path / "b", [40, 9])
    assert folder_digest(tmp_path / "a") == folder_digest(tmp_path / "b")
    assert len(first) == len(second) == 2


def test_a_manifest_holds_content_and_meaning(tmp_path: Path):
    manifests, values = make_store(tmp_path, [70], sink=50.0)
    facts = json.loads(manifests[0].read_text())
    assert facts["digest"] == folder_digest(shard_files(manifests[0]).array)
    assert (facts["artefact"], facts["part"], facts["shard"], facts["rows"], facts["traces"]) == (
        "activation_shard", "heldout", "000", 70, 10,
    )  # fmt: skip
    assert facts["norm_quantiles"]["max"] == pytest.approx(float(values.norm(dim=1).max()))
    assert facts["share_above_10_medians"] == pytest.approx(10 / 70)


def test_the_time_stamp_of_snakemake_changes_nothing(tmp_path: Path):
    manifests, values = make_store(tmp_path, [40])
    (shard_files(manifests[0]).array / ".snakemake_timestamp").touch()
    assert torch.equal(Store(manifests).read(), values)


def test_a_chunk_of_zeros_is_stored(tmp_path: Path):
    values = torch.zeros(40, 4)
    files = write_shard(tmp_path / "shard_000.json", values, row_table(0, 40), layer=0, chunk_rows=16)
    assert torch.equal(Store([files.manifest]).read(), values)


def test_the_filter_drops_first_positions_and_long_rows(tmp_path: Path):
    manifests, values = make_store(tmp_path, [70, 35])
    position = torch.arange(105) % TEXT
    norms = values.norm(dim=1)
    median = norms[position >= 2].median()  # 75 rows: the middle one
    expected = (position >= 2) & (norms <= 1.2 * median)
    store = Store(manifests, RowFilter(2, 1.2))
    assert store.median_norm == pytest.approx(float(median))
    assert 10 < len(store) < 75
    assert torch.equal(store.read(), values[expected])
    assert store.rows["pos"].tolist() == position[expected].tolist()
    assert store.dropped_share == pytest.approx(1 - float(expected.float().mean()))


def test_sinks_do_not_move_the_median_that_judges_them(tmp_path: Path):
    manifests, _ = make_store(tmp_path, [70], sink=1000.0)
    store = Store(manifests, RowFilter(1, 10.0))
    assert len(store) == 60
    assert Store(manifests, RowFilter(0, 10.0)).rows["pos"].min() == 1


def test_splits_choose_rows_and_their_own_median(tmp_path: Path):
    manifests, values = make_store(tmp_path, [70, 35])
    is_val = (torch.arange(105) // TEXT) % 3 == 0
    store = Store(manifests, RowFilter(1, 10.0), splits=["val"])
    kept = is_val & (torch.arange(105) % TEXT >= 1)
    assert torch.equal(store.read(), values[kept])
    assert store.median_norm == pytest.approx(float(np.median(values[kept].norm(dim=1).numpy())))
    assert store.dropped_share == pytest.approx(1 / TEXT)
    assert set(store.rows["split"].cat.categories) == {"val"}


@settings(max_examples=25, deadline=None)
@given(batch=st.integers(1, 130), skip=st.integers(0, 3))
def test_sequential_batches_are_the_store_in_order(tmp_path_factory: pytest.TempPathFactory, batch: int, skip: int):
    manifests, _ = make_store(tmp_path_factory.mktemp("store"), [50, 1, 69])
    store = Store(manifests, RowFilter(skip, 1.5))
    whole, start = store.read(), 0
    for values, place in store.sequential(batch):
        assert (place.start, place.stop) == (start, start + len(values))
        assert torch.equal(values, whole[place])
        assert len(values) == batch or place.stop == len(store)
        start = place.stop
    assert start == len(store)


def test_shards_of_different_layers_are_refused(tmp_path: Path):
    manifests, _ = make_store(tmp_path, [20])
    other = write_shard(tmp_path / "shard_009.json", torch.randn(20, 8), row_table(0, 20), layer=4)
    with pytest.raises(ConfigError, match=r"same layer; .* has 3, .* has 4\. Open them apart"):
        Store([*manifests, other.manifest])


def test_a_filter_that_leaves_nothing_is_an_error(tmp_path: Path):
    manifests, _ = make_store(tmp_path, [20])
    with pytest.raises(ConfigError, match="none of 20 is left"):
        Store(manifests, RowFilter(99, 10.0))
    with pytest.raises(ConfigError, match="at least one shard"):
        Store([])


def test_what_float16_cannot_hold_is_refused_with_its_place(tmp_path: Path):
    values = torch.ones(20, 4)
    values[15, 2] = 70_000
    with pytest.raises(ConfigError, match=r"stored as float16; layer 3 at trace p000000000001/base/0, position 1 reaches 70000"):
        write_shard(tmp_path / "shard_000.json", values, row_table(0, 20), layer=3, dtype="float16")
    assert not (tmp_path / "shard_000.json").exists()
    assert not (tmp_path / "shard_000.zarr").exists()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, bad: float):
    values = torch.ones(20, 4)
    values[3, 1] = bad
    with pytest.raises(ConfigError, match="must be finite; layer 3 at trace p000000000000/base/0, position 3 has 1 values"):
        write_shard(tmp_path / "shard_000.json", values, row_table(0, 20), layer=3)


def test_long_but_finite_rows_pass(tmp_path: Path):
    values = torch.full((20, 4), 1e25)  # their squares overflow float32, they do not
    files = write_shard(tmp_path / "shard_000.json", values, row_table(0, 20), layer=3, dtype="bfloat16")
    assert Store([files.manifest]).rows["norm"].to_numpy() == pytest.approx(2e25, rel=1e-2)
