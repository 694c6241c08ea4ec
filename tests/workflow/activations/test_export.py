"""Exports hold the stored values exactly, with what their rows are, and are written whole or not at all."""

import json
import logging
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors import safe_open
from small_stores import make_store

from workflow.activations.export import export, main
from workflow.config.section import ConfigError
from workflow.formats.activations import CorruptShard, RowFilter, Store
from workflow.formats.shards import shard_files


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("skip", [0, 2])
def test_hdf5_round_trip(tmp_path: Path, dtype: str, skip: int):
    manifests, _ = make_store(tmp_path / "store", [50, 33], dtype=dtype)
    store = Store(manifests, RowFilter(skip, 10.0))
    export([tmp_path / "store"], tmp_path / "out.h5", RowFilter(skip, 10.0))
    with h5py.File(tmp_path / "out.h5") as file:
        matrix = file["activations"][:]
        assert matrix.dtype == (np.float16 if dtype == "float16" else np.float32)
        assert np.array_equal(matrix.astype(np.float32), store.read().numpy())
        for name in ("problem", "split", "trace"):
            texts = file[f"names/{name}"].asstr()[:]
            assert texts[file[f"rows/{name}"][:]].tolist() == store.rows[name].tolist()
        for name in ("step", "pos", "token", "role", "norm"):
            assert np.array_equal(file[f"rows/{name}"][:], store.rows[name])
        assert (file.attrs["layer"], file.attrs["hook_point"]) == (3, "blocks.3.hook_resid_post")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_safetensors_round_trip_keeps_the_number_format(tmp_path: Path, dtype: str):
    manifests, values = make_store(tmp_path / "store", [50, 33], d_model=7, dtype=dtype)
    store = Store(manifests)
    assert export([tmp_path / "store"], tmp_path / "out.safetensors") == 83
    with safe_open(tmp_path / "out.safetensors", framework="pt") as file:
        matrix, told = file.get_tensor("activations"), file.metadata()
        assert matrix.dtype == getattr(torch, dtype)
        assert torch.equal(matrix.float(), values)
        for name in ("problem", "split", "trace"):
            texts = json.loads(told[f"{name}_names"])
            assert [texts[code] for code in file.get_tensor(name)] == store.rows[name].tolist()
        for name in ("step", "pos", "token", "role", "norm"):
            assert np.array_equal(file.get_tensor(name).numpy(), store.rows[name])
    assert told["hook_point"] == "blocks.3.hook_resid_post"


def test_equal_stores_give_equal_bytes(tmp_path: Path):
    for name in ("a", "b"):
        make_store(tmp_path / name, [50, 33])
        for ending in ("h5", "safetensors"):
            export([tmp_path / name], tmp_path / f"{name}.{ending}")
    for ending in ("h5", "safetensors"):
        assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()


def test_several_folders_and_a_split(tmp_path: Path):
    first, _ = make_store(tmp_path / "hop_0", [40], seed=0)
    second, _ = make_store(tmp_path / "hop_1", [30], seed=1)
    assert main([str(tmp_path / "hop_0"), str(second[0]), "--to", str(tmp_path / "out.h5"), "--split", "val"]) == 0
    with h5py.File(tmp_path / "out.h5") as file:
        assert np.array_equal(file["activations"][:], Store([*first, *second], splits=["val"]).read())
        assert file["names/split"].asstr()[:].tolist() == ["val"]


def test_damage_leaves_no_file(tmp_path: Path):
    manifests, _ = make_store(tmp_path / "store", [50])
    (shard_files(manifests[0]).array / "c/2/0").write_bytes(b"")
    for ending in ("h5", "safetensors"):
        with pytest.raises(CorruptShard, match="intact in chunk 2"):
            export([tmp_path / "store"], tmp_path / f"out.{ending}")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_wishes_that_cannot_be_met_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    make_store(tmp_path / "store", [50])
    with pytest.raises(ConfigError, match=r"must end in \.h5, \.hdf5, \.safetensors; got"):
        export([tmp_path / "store"], tmp_path / "out.npy")
    (tmp_path / "there.h5").touch()
    with pytest.raises(ConfigError, match="must not exist yet"):
        export([tmp_path / "store"], tmp_path / "there.h5")
    with caplog.at_level(logging.ERROR):
        assert main([str(tmp_path / "nowhere"), "--to", str(tmp_path / "out.h5")]) == 1
    assert "must hold shards" in caplog.text
    assert "does not exist" in caplog.text
