"""A killed job leaves nothing half-written."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from workflow.formats.files import file_digest, folder_digest, publish, replacing, scratch_folder, write_json
from workflow.formats.manifest import read_manifest, write_manifest


def _write_half(path: Path) -> None:
    path.write_text("half")
    raise RuntimeError("interrupted")


def test_a_failure_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "table.csv"
    target.write_text("old")
    with pytest.raises(RuntimeError, match="interrupted"), replacing(target) as temporary:
        _write_half(temporary)
    assert target.read_text() == "old"


def test_a_kill_while_writing_leaves_no_file(tmp_path: Path) -> None:
    code = f"""
import os, signal
from workflow.formats.files import replacing
with replacing({str(tmp_path / "out.bin")!r}) as temporary:
    temporary.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "out.bin").exists()


def test_json_bytes_depend_on_the_value_alone(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": {"d": 0.1, "c": "ℓ"}})
    write_json(tmp_path / "b.json", {"a": {"c": "ℓ", "d": 0.1}, "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "c.json", {"x": float("nan")})


def test_scratch_of_other_settings_is_never_found(tmp_path: Path) -> None:
    target = tmp_path / "shard.zarr"
    old = scratch_folder(target, "aaaa")
    (old / "piece").write_text("old")
    assert scratch_folder(target, "aaaa") == old
    assert (old / "piece").exists()
    new = scratch_folder(target, "bbbb")
    assert not old.exists()
    assert list(new.iterdir()) == []


def test_publishing_replaces_the_target_in_one_step_and_clears_up(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "stale").write_text("x")
    scratch = scratch_folder(target, "k")
    (scratch / "sub").mkdir()
    (scratch / "sub" / "w").write_text("new")
    publish(scratch, target)
    assert [str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()] == ["sub/w"]
    assert not (tmp_path / ".partial").exists()


def test_a_folders_digest_sees_names_and_contents_but_not_the_time_stamp(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    before = folder_digest(tmp_path)
    (tmp_path / ".snakemake_timestamp").touch()
    assert folder_digest(tmp_path) == before
    (tmp_path / "a").rename(tmp_path / "b")
    renamed = folder_digest(tmp_path)
    assert renamed != before
    (tmp_path / "b").write_text("2")
    assert folder_digest(tmp_path) != renamed


def test_a_manifest_of_another_kind_or_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    write_manifest(path, "sae", k=4)
    assert read_manifest(path, "sae")["k"] == 4
    with pytest.raises(ValueError, match="artefact policy"):
        read_manifest(path, "policy")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 2}))
    with pytest.raises(ValueError, match="version 1"):
        read_manifest(path, "sae")


def test_file_digests_are_sha256(tmp_path: Path) -> None:
    (tmp_path / "e").write_bytes(b"")
    assert file_digest(tmp_path / "e") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
