"""Files of unknown origin: pickled code never runs, damage is told, state dicts are found where projects put them."""

import argparse
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from workflow.config.section import ConfigError
from workflow.formats.published.tensors import read_tensors


class Malice:
    """Pickled, it makes whoever unpickles it create a file."""

    def __init__(self, target: Path) -> None:
        self.target = str(target)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("new_zipfile", [True, False])
def test_pickled_code_is_refused_and_never_runs(tmp_path: Path, new_zipfile: bool) -> None:
    target = tmp_path / "created"
    content = {"encoder.weight": torch.ones(2), "config": Malice(target)}
    torch.save(content, tmp_path / "sae.pt", _use_new_zipfile_serialization=new_zipfile)
    with pytest.raises(ConfigError, match=r"must hold only tensors, .* because a pickle can run any code; it asks for \S*mkdir"):
        read_tensors(tmp_path / "sae.pt")
    assert not target.exists()


def test_a_bare_pickle_with_code_never_runs(tmp_path: Path) -> None:
    (tmp_path / "sae.pt").write_bytes(pickle.dumps(Malice(tmp_path / "created"), protocol=2))
    with pytest.raises(ConfigError, match="because a pickle can run any code; it asks for"):
        read_tensors(tmp_path / "sae.pt")
    assert not (tmp_path / "created").exists()


def test_the_malice_of_these_tests_is_real(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Malice(tmp_path / "created")))
    assert (tmp_path / "created").is_dir()


@pytest.mark.parametrize("culprit", [argparse.Namespace(k=3), np.float64(0.5)])
def test_the_usual_culprits_are_named(tmp_path: Path, culprit: object) -> None:
    torch.save({"state_dict": {"b": torch.ones(2)}, "args": culprit}, tmp_path / "sae.pt")
    with pytest.raises(ConfigError, match=r"it asks for \S*(Namespace|scalar)\. Get a safetensors file"):
        read_tensors(tmp_path / "sae.pt")


def test_a_file_of_before_zip_archives_is_read(tmp_path: Path) -> None:
    torch.save({"b": torch.arange(4.0)}, tmp_path / "sae.pt", _use_new_zipfile_serialization=False)
    assert read_tensors(tmp_path / "sae.pt").tensors["b"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("kept", [0.5, 0.95, 0.0])
@pytest.mark.parametrize("new_zipfile", [True, False])
def test_a_truncated_file_is_told(tmp_path: Path, kept: float, new_zipfile: bool) -> None:
    path = tmp_path / "sae.pt"
    torch.save({"b": torch.ones(5000)}, path, _use_new_zipfile_serialization=new_zipfile)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(ConfigError, match=r"must be a whole file of torch.save; reading it fails: .*Fetch it again"):
        read_tensors(path)


@pytest.mark.parametrize("content", [b"<html>404</html>", b"\x00" * 64, b"PK\x03\x04 and no archive"])
def test_what_is_no_pickle_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "sae.pt").write_bytes(content)
    with pytest.raises(ConfigError, match=r"must be a whole file of torch.save"):
        read_tensors(tmp_path / "sae.pt")


@pytest.mark.parametrize("name", ["sae.pt", "sae.safetensors"])
def test_a_pointer_of_git_lfs_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(ConfigError, match=r"it is a pointer of Git LFS. Fetch the file itself"):
        read_tensors(tmp_path / name)


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model", "sae", "ae"])
def test_wrapped_state_dicts_are_found_with_what_stands_beside(tmp_path: Path, wrapper: str) -> None:
    torch.save({wrapper: {"b": torch.ones(2)}, "config": {"k": 3}, "step": 7}, tmp_path / "sae.pt")
    found = read_tensors(tmp_path / "sae.pt")
    assert list(found.tensors) == ["b"]
    assert (found.beside["config"], found.beside["step"]) == ({"k": 3}, 7)


@pytest.mark.parametrize(("names", "expected"), [(("module.a", "module.b"), {"a", "b"}), (("module.a", "b"), {"module.a", "b"})])
def test_a_prefix_is_taken_off_only_where_all_have_it(tmp_path: Path, names: tuple[str, ...], expected: set[str]) -> None:
    torch.save({name: torch.ones(2) for name in names}, tmp_path / "sae.pt")
    assert set(read_tensors(tmp_path / "sae.pt").tensors) == expected


@pytest.mark.parametrize(("content", "told"), [(torch.ones(3), "Tensor"), ([1, 2], "list"), ({"a": 1, "b": "x"}, "a dict of a, b")])
def test_what_is_no_state_dict_is_told(tmp_path: Path, content: object, told: str) -> None:
    torch.save(content, tmp_path / "sae.pt")
    with pytest.raises(ConfigError, match=f"must hold a state dict, .*; got {told}"):
        read_tensors(tmp_path / "sae.pt")


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        ({"a": torch.ones(2, dtype=torch.bfloat16), "t": torch.ones((), dtype=torch.float64)}, "bfloat16"),
        ({"a": torch.ones(2), "b": torch.ones(2, dtype=torch.float16)}, "float16+float32"),
    ],
)
def test_the_dtype_is_that_of_tensors_with_more_than_one_number(tmp_path: Path, tensors: dict[str, Tensor], expected: str) -> None:
    torch.save(tensors, tmp_path / "sae.pt")
    assert read_tensors(tmp_path / "sae.pt").dtype == expected


def test_a_missing_file_is_told_with_what_lies_beside(tmp_path: Path) -> None:
    (tmp_path / "other.pt").touch()
    with pytest.raises(ConfigError, match=r"sae.pt must be a file; there is none, but other.pt beside it"):
        read_tensors(tmp_path / "sae.pt")
    with pytest.raises(ConfigError, match=r"there is no folder .*nowhere either"):
        read_tensors(tmp_path / "nowhere" / "sae.pt")
    with pytest.raises(ConfigError, match="there is a folder"):
        read_tensors(tmp_path)
