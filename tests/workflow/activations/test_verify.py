"""The check of everything below a folder: sound shards pass, damaged ones are named and set aside on request."""

import logging
from pathlib import Path

import pytest
from small_stores import make_store

from workflow.activations.verify import main, verify
from workflow.formats.shards import shard_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two stores with three shards, and a provenance file as the pipeline leaves it."""
    make_store(tmp_path / "layer_10" / "heldout", [40, 40])
    make_store(tmp_path / "layer_20" / "heldout", [40])
    (tmp_path / "heldout").mkdir()
    (tmp_path / "heldout" / "shard_000.provenance.json").write_text("{}")
    return tmp_path


def damage(folder: Path) -> Path:
    chunk = shard_files(folder / "layer_10/heldout/shard_001.json").array / "c/0/0"
    chunk.write_bytes(b"\x01" + chunk.read_bytes()[1:])
    return chunk


def test_sound_shards_pass(folder: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO):
        assert main([str(folder)]) == 0
    lines = [line.split() for line in caplog.text.splitlines() if " ok" in line]
    assert [(line[-4].split("/")[-3], line[-3], line[-1]) for line in lines] == [
        ("layer_10", "40", "ok"), ("layer_10", "40", "ok"), ("layer_20", "40", "ok"),
    ]  # fmt: skip


def test_a_flipped_bit_ends_in_1_and_changes_nothing(folder: Path, caplog: pytest.LogCaptureFixture):
    damage(folder)
    before = sorted(folder.rglob("*"))
    assert main([str(folder)]) == 1
    assert "layer_10/heldout/shard_001.zarr must be intact in chunk 0" in caplog.text
    assert sorted(folder.rglob("*")) == before


def test_set_aside_moves_the_damaged_shard_alone(folder: Path):
    damage(folder)
    assert main([str(folder), "--set-aside"]) == 1
    assert sorted(path.name for path in (folder / "layer_10/heldout").iterdir()) == [
        "shard_000.json", "shard_000.rows.parquet", "shard_000.zarr",
        "shard_001.json.corrupt", "shard_001.rows.parquet", "shard_001.zarr.corrupt",
    ]  # fmt: skip
    assert [finding.rows for finding in verify(folder)] == [40, 40]


def test_a_folder_without_shards_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    assert main([str(tmp_path)]) == 1
    assert "has none" in caplog.text
