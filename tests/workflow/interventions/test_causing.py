"""Causal checks from files to sums: known relations between their numbers, the same bytes again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from small_scene import KEEP, LAYER, Scene, reading
from tiny_models import build_tiny_model

from workflow.formats.activations import Store
from workflow.formats.manifest import read_manifest
from workflow.formats.saes import read_sae
from workflow.interventions.causing import Plan, check_causes
from workflow.interventions.outputs import compare_outputs

Table = pd.DataFrame
PLAN = Plan("ppo_0001", latents=2, draws=2, strengths=[1.0, 8.0], seed=0, min_firings=2, min_prompts=2)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base policy other than that of the scene."""
    return build_tiny_model(tmp_path_factory.mktemp("base") / "model", seed=1)


@pytest.fixture(scope="module")
def checked(scene: Scene, base: Path) -> Callable[..., Path]:
    """Runs a causal check; its table."""

    def check(out: str, **changes: Any) -> Path:
        saes = {"real": scene.saes["real"], "null": scene.saes["null"], "base": scene.saes["frozen"]}
        usual: dict[str, Any] = {
            "traces": scene.folder / "traces.parquet", "traces_manifest": scene.folder / "manifest.json", "model": scene.model,
            "base": base, "shards": scene.shards, "saes": saes, "sums": scene.folder / out / "sums.parquet",
            "manifest": scene.folder / out / "manifest.json", "keep": KEEP, "plan": PLAN, "reading": reading(),
            "cell": {"run": "strict", "text": "onpolicy", "kind": "topk", "seed": 0, "layer": LAYER},
        }  # fmt: skip
        check_causes(**(usual | changes))
        return scene.folder / out / "sums.parquet"

    return check


def means(path: Path) -> Any:
    """Nats per token by (action, group, strength)."""
    sums = pd.read_parquet(path).groupby(["action", "group", "strength"])[["tokens", "ce", "kl"]].sum()
    return sums.div(sums["tokens"], axis=0)


def test_every_group_is_acted_upon_in_every_way(checked: Callable[..., Path]) -> None:
    path = checked("whole")
    found = pd.read_parquet(path)
    for group, members in (("drifted", 2), ("random", 4), ("null", 2)):
        for action, strength in (("zero", 0.0), ("mean", 0.0), ("steer", 1.0), ("steer", 8.0)):
            mine = found[(found["group"] == group) & (found["action"] == action) & (found["strength"] == strength)]
            assert sorted(set(mine["member"])) == list(range(members))
    moved = found[found["action"] == "transplant"]
    assert moved.groupby("group")["member"].nunique().to_dict() == {"drifted": 1, "random": 2, "null": 1, "all": 1, "all_null": 1}
    manifest = read_manifest(path.with_name("manifest.json"), "causal")
    assert [one["group"] for one in manifest["latents"]] == ["drifted"] * 2 + ["random"] * 4 + ["null"] * 2
    assert all(one["strong"] > 0 and one["rate"] > 0 for one in manifest["latents"])


def test_rates_and_strengths_are_those_of_the_kept_rows(scene: Scene, checked: Callable[..., Path]) -> None:
    manifest = read_manifest(checked("told").with_name("manifest.json"), "causal")
    rows = Store(scene.shards, keep=KEEP, splits=["test"]).read()
    for one in manifest["latents"]:
        sae = read_sae(scene.saes["null" if one["group"] == "null" else "real"]).model
        with torch.no_grad():
            found = sae.encode_dense(rows)[:, one["latent"]]
        assert one["rate"] == pytest.approx(float((found != 0).float().mean()))
        assert one["strong"] == pytest.approx(float(found[found != 0].quantile(0.95)), rel=1e-5)


def test_driving_harder_changes_more(checked: Callable[..., Path]) -> None:
    kl = means(checked("harder"))["kl"]
    assert (kl["steer", "drifted", 8.0] > 2 * kl["steer", "drifted", 1.0]) & (kl["steer", "drifted", 1.0] > 0)


def test_untouched_policies_are_those_of_the_comparison_of_outputs(scene: Scene, base: Path, checked: Callable[..., Path]) -> None:
    folder = scene.folder / "compared"
    compare_outputs(
        traces=scene.folder / "traces.parquet", traces_manifest=scene.folder / "manifest.json", model=scene.model, base=base,
        sums=folder / "sums.parquet", manifest=folder / "manifest.json", about={}, reading=reading(),
    )  # fmt: skip
    truth = pd.read_parquet(folder / "sums.parquet").sum(numeric_only=True)
    truth = truth / truth["tokens"]
    found = means(checked("untouched")).loc["nothing"]
    assert found["ce"]["policy", 0.0] == pytest.approx(truth["ce"], rel=1e-4)
    assert found["ce"]["base", 0.0] == pytest.approx(truth["ce_base"], rel=1e-4)
    assert found["kl"]["base", 0.0] == pytest.approx(truth["kl"], rel=1e-3)


def test_the_directions_of_base_transplanted_into_base_change_nothing(scene: Scene, checked: Callable[..., Path]) -> None:
    saes = {"real": scene.saes["frozen"], "null": scene.saes["null"], "base": scene.saes["frozen"]}
    kl = means(checked("same", saes=saes))["kl"]
    assert kl["transplant", "all", 0.0] == pytest.approx(kl["nothing", "base", 0.0], rel=1e-6)
    assert kl["transplant", "all_null", 0.0] != pytest.approx(kl["nothing", "base", 0.0], rel=1e-3)


def test_the_same_bytes_again(checked: Callable[..., Path]) -> None:
    first, again = checked("first"), checked("again")
    assert first.read_bytes() == again.read_bytes()
    assert first.with_name("manifest.json").read_bytes() == again.with_name("manifest.json").read_bytes()
