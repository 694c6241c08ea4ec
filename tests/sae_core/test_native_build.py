"""Compiling the native backend: with no compiler, a broken one, an old one; and what a user is told."""

import stat
from pathlib import Path

import pytest
import torch

from sae_core.kernels import choice
from sae_core.kernels.choice import choose_backend
from sae_core.kernels.native import build, library
from sae_core.kernels.torch_backend import TorchBackend

CPU = torch.device("cpu")
COMPILES = """#!/bin/sh
case "$*" in *{refused}*) echo "unrecognised option" >&2; exit 1;; esac
while [ $# -gt 1 ]; do [ "$1" = -o ] && : > "$2"; shift; done
: > "$1"
"""


def compiler(folder: Path, refused: str) -> str:
    """A program that writes what it should, but not where a word stands among its arguments."""
    path = folder / "compiler"
    path.write_text(COMPILES.format(refused=refused), encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def libraries(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"compiler"}


def test_no_compiler_is_an_error_that_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"needs a C\+\+17 compiler; found none of .*\. Install one or set CXX\."):
        build.build(tmp_path)
    assert build.main() == 1


@pytest.mark.parametrize("command", ["/bin/false", "/no/such/compiler", "/bin/false --with arguments"])
def test_a_compiler_that_fails_leaves_nothing_behind(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", command)
    with pytest.raises(ValueError, match=rf"`{command}` failed\. Install"):
        build.build(tmp_path)
    assert libraries(tmp_path) == set()


def test_a_compiler_too_old_for_the_newest_instructions_makes_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(build, "levels", lambda: tuple(build.LEVELS))
    monkeypatch.setenv("CXX", compiler(tmp_path, refused="x86-64-v4"))
    assert build.build(tmp_path) == ["avx2", "portable"]
    assert libraries(tmp_path) == {"libsae_avx2.so", "libsae_portable.so"}
    assert "libsae_avx512.so was not compiled" in caplog.text
    assert "unrecognised option" in caplog.text


def test_only_the_portable_library_is_made_for_other_processors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.platform, "machine", lambda: "aarch64")
    monkeypatch.setenv("CXX", compiler(tmp_path, refused="march"))
    assert build.build(tmp_path) == ["portable"]


@pytest.fixture
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries are looked for in an empty folder."""
    monkeypatch.setattr(build, "library_path", lambda level, _=None: tmp_path / f"libsae_{level}.so")
    monkeypatch.setattr(library, "load", library.load.__wrapped__)
    choice._say.cache_clear()


@pytest.mark.usefixtures("_elsewhere")
def test_without_a_library_auto_takes_torch_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    for _ in range(2):
        assert isinstance(choose_backend("auto", CPU), TorchBackend)
    (record,) = caplog.records
    assert record.message.startswith("backend torch (torch ")
    assert "native needs a compiled library; found none that fits" in record.message
    assert "`python -m sae_core.kernels.native.build`" in record.message


@pytest.mark.usefixtures("_elsewhere")
def test_without_a_library_native_is_refused() -> None:
    with pytest.raises(ValueError, match=r"The backend native needs a compiled library; found none .*, or choose auto or torch\."):
        choose_backend("native", CPU)


@pytest.mark.usefixtures("_elsewhere")
def test_a_file_that_is_no_library_is_reported(tmp_path: Path) -> None:
    (tmp_path / "libsae_portable.so").write_text("nothing", encoding="utf-8")
    assert "libsae_portable.so" in str(library.unavailable())


def test_a_library_of_another_source_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := library.unavailable():
        pytest.skip(reason)
    monkeypatch.setattr(library, "load", library.load.__wrapped__)
    monkeypatch.setattr(build, "digest", lambda: "0" * 64)
    assert "libsae_portable.so was compiled from another version of kernels.cpp" in str(library.unavailable())


def test_a_level_that_this_cpu_lacks_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := library.unavailable():
        pytest.skip(reason)
    monkeypatch.setattr(library, "load", library.load.__wrapped__)
    monkeypatch.setattr(library, "NEEDS", {"avx512": 1 << 30, "avx2": 1 << 30, "portable": 0})
    assert library.unavailable("avx512") == "this CPU has no AVX-512; use another level"
    found = library.load()
    assert isinstance(found, library.Library)
    assert found.level == "portable"


def test_with_a_library_auto_takes_native_on_a_cpu() -> None:
    if reason := library.unavailable():
        pytest.skip(reason)
    for name in ("auto", "native"):
        assert choose_backend(name, CPU).name == "native"
    assert choose_backend("torch", CPU).name == "torch"


def test_backends_for_other_devices_and_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"The backend triton computes on a GPU; got the device cpu\. Move to a GPU, or choose"):
        choose_backend("triton", CPU)
    with pytest.raises(ValueError, match=r"The backend native computes on a CPU; got the device cuda\. Move to a CPU, or choose"):
        choose_backend("native", torch.device("cuda"))
