"""Graphs of one stage on the rows of another; here both stages are one policy, so nothing may get lost."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from workflow.config.n2g import N2gConfig
from workflow.config.section import ConfigError
from workflow.formats.activations import RowFilter
from workflow.formats.drift_columns import schema
from workflow.formats.n2g_columns import N2gPaths, N2gTransfer
from workflow.language_model import load_tokenizer, model_facts
from workflow.n2g.following import Files, follow_latents
from workflow.n2g.vocabulary import vocabulary

CELL = {"run": "strict", "text": "fixed", "kind": "relu", "seed": 0, "layer": 0}


def follow(scene: Any, graphs: dict[str, Path], folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    follow_latents(
        stages={stage: Files(path / "manifest.json", scene.sae, [scene.held_out]) for stage, path in graphs.items()},
        base_sae=scene.sae, members=vocabulary(load_tokenizer(scene.model), model_facts(scene.model).vocab).members, folder=folder,
        cell=CELL, keep=RowFilter(1, 10.0), settings=N2gConfig(strong=0.6),
        bootstrap={"replicates": 100, "confidence": 0.95, "seed": 0}, key="k",
    )  # fmt: skip
    return pd.read_parquet(folder / "transfer.parquet"), pd.read_parquet(folder / "paths.parquet")


def test_every_graph_is_scored_on_every_stage_and_on_its_own_as_it_was(explained: Callable[..., Any], tmp_path: Path) -> None:
    scene = explained()
    graphs = {"base": scene.run("base"), "ppo_0001": scene.run("later", settings={"seed": 5})}
    transfer, paths = follow(scene, graphs, tmp_path)
    assert list(transfer.columns) == schema(N2gTransfer).names
    assert list(paths.columns) == schema(N2gPaths).names
    cells = transfer.set_index(["graph_stage", "stage", "sae"])
    assert set(cells.index) == {
        ("base", "base", "own"), ("ppo_0001", "base", "own"), ("base", "ppo_0001", "own"), ("ppo_0001", "ppo_0001", "own"),
        ("base", "ppo_0001", "frozen"),
    }  # fmt: skip
    means = pd.read_parquet(graphs["base"] / "scores.parquet").set_index(["sae", "explanation", "rows"])
    own = means.loc[("trained", "n2g", "uniform")]
    assert cells.loc[("base", "base", "own"), ["f1", "f1_low", "f1_high"]].tolist() == own[["f1", "f1_low", "f1_high"]].tolist()
    assert cells.loc[("base", "base", "own"), "loss"] == 0
    assert cells.loc[("base", "ppo_0001", "frozen"), "f1"] == pytest.approx(cells.loc[("base", "ppo_0001", "own"), "f1"])
    assert set(paths["latent"]) == {0, 1, 2}


def test_equal_graphs_keep_all_their_paths(explained: Callable[..., Any], tmp_path: Path) -> None:
    scene = explained()
    folder = scene.run("same")
    _, paths = follow(scene, {"base": folder, "ppo_0001": folder}, tmp_path)
    assert (paths["new"] == 0).all()
    assert (paths["lost"] == 0).all()
    assert paths["overlap"].dropna().eq(1).all()
    assert "kept" in (tmp_path / "changes" / "latent_0.svg").read_text()


def test_stages_with_other_latents_are_refused(explained: Callable[..., Any], tmp_path: Path) -> None:
    scene = explained()
    graphs = {"base": scene.run("few", settings={"latents": [0]}), "ppo_0001": scene.run("more")}
    with pytest.raises(ConfigError, match="must have graphs of the same latents; ppo_0001 and base differ"):
        follow(scene, graphs, tmp_path)
