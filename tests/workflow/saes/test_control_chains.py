"""Where the SAEs of control chains start, how long they are trained, and on which draws."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from planted_stores import sae_arguments

from workflow.config.study import load_study
from workflow.formats.saes import read_sae
from workflow.saes.starting import Place, stream, training_config
from workflow.saes.training import train_sae

Stores = dict[str, list[Path]]


def train(folder: Path, stores: Stores, budget: list[Path] | None = None, **changes: Any) -> dict[str, Any]:
    train_sae(**sae_arguments(folder, stores, **changes), budget=budget or [])
    return json.loads((folder / "manifest.json").read_text())


def test_a_fresh_sae_behind_base_gets_the_updates_of_its_chain(tmp_path: Path, stores: Stores):
    base = train(tmp_path / "base", stores, epochs=3)
    hop = train(tmp_path / "hop", stores, rows="moved", warm=tmp_path / "base/manifest.json", epochs=2, stage="ppo_0001")
    spent = [tmp_path / "base/manifest.json", tmp_path / "hop/manifest.json"]
    cold = train(tmp_path / "cold", stores, spent, rows="moved", epochs=3, chain="cold", hop=1, stage="ppo_0001")
    assert cold["updates"] == base["updates"] + hop["updates"]
    assert cold["parent"] is None
    assert cold["rows"] == hop["rows"], "the rows of its stage, more often"
    marks = read_sae(tmp_path / "cold/manifest.json").extras["reinitialised"]
    assert marks.all(), "its latents have nothing but their index in common with those of base"
    assert not read_sae(tmp_path / "base/manifest.json").extras["reinitialised"].all()


@pytest.mark.parametrize(("budget", "epochs"), [(1, 1), (27, 3), (31, 3), (32, 4)])
def test_a_budget_is_spent_in_whole_epochs(tmp_path: Path, stores: Stores, budget: int, epochs: int):
    arguments = sae_arguments(tmp_path, stores, epochs=7)
    found = training_config(arguments["settings"], arguments["place"], 300, 300, budget)
    assert (found.updates, found.updates_per_epoch) == (9 * epochs, 9)


def test_repeat_alone_has_a_stream_of_its_own():
    place = Place("strict", "fixed", "topk", "real", 0, "ppo_0001", 3, 1, "hop_1", "ppo_0001")
    for purpose in ("rows", "resampling"):
        streams = {chain: stream(place._replace(chain=chain), purpose) for chain in ("real", "null", "cold", "repeat")}
        assert streams["real"] == streams["null"] == streams["cold"] != streams["repeat"]


def test_repeat_goes_on_from_the_sae_of_its_own_stage_on_the_same_rows(tmp_path: Path, stores: Stores):
    base = train(tmp_path / "base", stores)
    again = {name: train(tmp_path / name, stores, warm=tmp_path / "base/manifest.json", chain=name) for name in ("real", "repeat")}
    assert again["repeat"]["parent"] == base["digest"]
    assert again["repeat"]["updates"] == again["real"]["updates"]
    tensors = [read_sae(tmp_path / name / "manifest.json").model.W_dec for name in again]
    assert not torch.equal(*tensors), "another order of the same rows"


def test_the_study_says_where_every_chain_starts():
    study = load_study({"policies": {"stages": [1, 2]}})
    starts = {chain: [study.parent("strict", chain, stage) for stage in ("ppo_0001", "ppo_0002")] for chain in ("real", "null")}
    assert starts == {chain: [(chain, "base"), (chain, "ppo_0001")] for chain in ("real", "null")}
    assert [study.parent("strict", "repeat", stage) for stage in ("ppo_0001", "ppo_0002")] == [
        ("real", "ppo_0001"),
        ("real", "ppo_0002"),
    ]
    assert study.parent("strict", "cold", "ppo_0002") is study.parent("shared", "real", "base") is None
    assert [study.source(chain, "ppo_0002") for chain in ("cold", "repeat", "null")] == ["ppo_0002", "ppo_0002", "base"]


def test_cold_and_repeat_read_no_part_that_real_does_not_read():
    plain, four = (load_study({"design": {"chains": chains}}) for chains in (["real"], ["real", "cold", "repeat"]))
    for run, stage in (("shared", "base"), ("strict", "ppo_0008"), ("strict", "ppo_0016")):
        assert plain.parts(run, "fixed", stage) == four.parts(run, "fixed", stage)
