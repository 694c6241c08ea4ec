"""Several kinds in one job: the bytes of separate jobs, one reading, and a kill at any moment."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from planted_stores import KINDS, sae_arguments

from sae_core.kernels.native.library import unavailable
from workflow.config.section import ConfigError
from workflow.formats.activations import Store
from workflow.saes import training
from workflow.saes.publishing import Files
from workflow.saes.training import Member, train_sae, train_saes

FILES = ("sae.safetensors", "history.csv", "manifest.json")
Stores = dict[str, list[Path]]


def together(folder: Path, stores: Stores, kinds: dict[str, dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """Arguments of `train_saes` for kinds with settings of their own; each kind's files lie in a folder of its name."""
    members, shared = [], {}
    for kind, own in kinds.items():
        one = sae_arguments(folder / kind, stores, kind=kind, **changes | own)
        (folder / kind).mkdir(parents=True, exist_ok=True)
        files = Files(one.pop("sae"), one.pop("history"), one.pop("manifest"))
        members.append(Member(one.pop("place"), one.pop("settings"), one.pop("warm"), files))
        shared = one
    return {"members": members, **shared}


def alone(folder: Path, stores: Stores, kind: str, **changes: Any) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    return train_sae(**sae_arguments(folder, stores, kind=kind, **changes))


def same_bytes(one: Path, other: Path) -> None:
    for name in FILES:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_kinds_trained_together_get_the_bytes_of_separate_jobs(tmp_path: Path, stores: Stores, backend: str):
    if backend == "native" and (missing := unavailable()):
        pytest.skip(f"no native backend: {missing}")
    facts = train_saes(**together(tmp_path / "together", stores, {kind: {} for kind in KINDS}) | {"backend": backend})
    assert facts["epochs"] == dict.fromkeys(KINDS, 3)
    assert facts["backend"] == backend
    for kind in KINDS:
        (tmp_path / "alone" / kind).mkdir(parents=True)
        train_sae(**sae_arguments(tmp_path / "alone" / kind, stores, kind=kind) | {"backend": backend})
        same_bytes(tmp_path / "together" / kind, tmp_path / "alone" / kind)
        assert sorted(path.name for path in (tmp_path / "together" / kind).iterdir()) == sorted(FILES)


def test_warm_starts_other_lengths_and_other_batches_may_go_together(tmp_path: Path, stores: Stores):
    own: dict[str, dict[str, Any]] = {"topk": {"epochs": 2}, "jumprelu": {"k": 3, "expansion": 2}, "batchtopk": {"batch": 16}}
    for hop, rows in (("base", "base"), ("hop", "moved")):
        arguments = together(tmp_path / hop, stores, own, rows=rows)
        if hop == "hop":
            members = [
                member._replace(warm=tmp_path / "base" / member.place.kind / "manifest.json", place=member.place._replace(hop=1))
                for member in arguments["members"]
            ]
            arguments |= {"members": members}
        train_saes(**arguments)
    for kind, changes in own.items():
        warm = tmp_path / "base" / kind / "manifest.json"
        alone(tmp_path / "alone" / kind, stores, kind, rows="moved", warm=warm, **changes)
        same_bytes(tmp_path / "hop" / kind, tmp_path / "alone" / kind)


def test_the_rows_are_read_once_for_all_kinds(tmp_path: Path, stores: Stores, monkeypatch: pytest.MonkeyPatch):
    pieces: list[str] = []
    plain = Store.read_piece

    def noted(self: Store, piece: Any) -> Any:
        pieces.append(str(self.rows["split"].iloc[0]))
        return plain(self, piece)

    monkeypatch.setattr(Store, "read_piece", noted)
    one_chunk_at_a_time = {"buffer_rows": 32}
    alone(tmp_path / "alone", stores, "topk", **one_chunk_at_a_time)
    by_one = pieces.copy()
    pieces.clear()
    train_saes(**together(tmp_path / "together", stores, dict.fromkeys(("topk", "relu", "gated"), one_chunk_at_a_time)))
    assert pieces == by_one
    assert (pieces.count("train"), pieces.count("val")) > (24, 12), "the test must cover several passes over both"


def test_a_killed_group_goes_on_to_the_same_bytes(tmp_path: Path, stores: Stores, monkeypatch: pytest.MonkeyPatch):
    kinds: dict[str, dict[str, Any]] = {"topk": {"epochs": 1}, "matryoshka_batchtopk": {}, "relu": {}}
    train_saes(**together(tmp_path / "whole", stores, kinds))
    arguments, plain, saves = together(tmp_path / "killed", stores, kinds), training.torch.save, []

    def dying(state: Any, path: Path) -> None:
        plain(state, path)
        saves.append(path)
        if len(saves) == 14:
            raise KeyboardInterrupt

    monkeypatch.setattr(training.torch, "save", dying)
    with pytest.raises(KeyboardInterrupt):
        train_saes(**arguments, save_seconds=0)
    monkeypatch.undo()
    assert train_saes(**arguments)["resumed_at_update"] == 13, "the fourteenth state had not taken its place yet"
    for kind in kinds:
        same_bytes(tmp_path / "whole" / kind, tmp_path / "killed" / kind)
    assert not (tmp_path / "killed/topk/.partial").exists()


def test_a_kind_that_diverges_is_named(tmp_path: Path, stores: Stores):
    arguments = together(tmp_path, stores, {"topk": {}, "relu": {"lr": 1e30, "grad_clip": 1e30}})
    with pytest.raises(ConfigError, match=r"^relu: The loss of an SAE must stay finite.*last_good_relu\.safetensors"):
        train_saes(**arguments)


def test_backends_agree(tmp_path: Path, stores: Stores):
    if missing := unavailable():
        pytest.skip(f"no native backend: {missing}")
    for backend in ("torch", "native"):
        (tmp_path / backend).mkdir()
        train_sae(**sae_arguments(tmp_path / backend, stores) | {"backend": backend})
    torch_nmse, native_nmse = (json.loads((tmp_path / name / "manifest.json").read_text())["nmse"] for name in ("torch", "native"))
    assert native_nmse == pytest.approx(torch_nmse, rel=1e-3)


def test_a_backend_that_cannot_run_is_refused(tmp_path: Path, stores: Stores):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match=r"compute\.backend=triton cannot be had here\. The backend triton computes on a GPU"):
        train_sae(**sae_arguments(tmp_path, stores) | {"backend": "triton"})


def test_the_notes_tell_the_backend(tmp_path: Path, stores: Stores):
    facts = alone(tmp_path, stores, "topk")
    assert facts["backend"] == "torch"
    assert facts["backend_detail"].startswith("torch ")
    assert (facts["best_epoch"], facts["epochs"]) == (json.loads((tmp_path / "manifest.json").read_text())["best_epoch"], 3)
