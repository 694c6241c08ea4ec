"""Probes of one stage side by side, on other stages, and as tables: paired differences, honest winners, scores for votes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from planted_steps import PlantedSteps, planted_steps

from workflow.config.probe_fits import ProbeFitsConfig
from workflow.formats.probe_columns import PROBE_TABLES
from workflow.formats.probe_fits import FILES
from workflow.formats.probe_scores import read_probe_scores
from workflow.probes.comparing import compare_probes, with_use
from workflow.probes.fitting import fit_probes
from workflow.probes.tables import probe_tables
from workflow.probes.transferring import StageFiles, transfer_probes, view_of

BOOTSTRAP = {"replicates": 200, "confidence": 0.95, "seed": 0}
SETTINGS = ProbeFitsConfig(
    tasks=["correct", "length"],
    models=["l2"],
    c_grid=[0.01, 0.1],
    folds=3,
    permutations=0,
    sets=["dense.last", "sae.topk.max", "words"],
)
LAYERS = (1, None)


def fitted(planted: PlantedSteps, folder: Path, stage: str = "base", layers: tuple[int | None, ...] = LAYERS) -> list[Path]:
    """Manifests of the fits of all places, and labels and features in the folder."""
    labels, features = planted.write(folder)
    manifests = []
    for layer in layers:
        place = folder / f"layer_{layer}"
        place.mkdir()
        files = {name: str(place / f"{name}.parquet") for name in FILES}
        manifests.append(place / "manifest.json")
        fit_probes(
            run="shared", stage=stage, layer=layer, labels=labels, features=features, codes={}, files=files,
            manifest=manifests[-1], settings=SETTINGS, bootstrap=BOOTSTRAP,
        )  # fmt: skip
    return manifests


def compared(manifests: list[Path], folder: Path, stage: str = "base") -> dict[str, Any]:
    made: dict[str, Any] = {name: folder / f"{name}.parquet" for name in ("scores", "contrasts")}
    compare_probes(
        run="shared", stage=stage, manifests=manifests, **made, manifest=folder / "manifest.json", bootstrap=BOOTSTRAP
    )  # fmt: skip
    return made | {"told": json.loads((folder / "manifest.json").read_text())}


@pytest.fixture(scope="module")
def planted_fits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    folder = tmp_path_factory.mktemp("fits")
    return folder, fitted(planted_steps(96), folder)


def test_differences_are_those_of_the_aurocs_and_paired(planted_fits: tuple[Path, list[Path]], tmp_path: Path) -> None:
    folder, manifests = planted_fits
    found = compared(manifests, tmp_path)
    contrasts = pd.read_parquet(found["contrasts"]).query("task == 'correct'").set_index(["features", "against"])
    probes = pd.read_parquet(folder / "layer_1/probes.parquet").query("task == 'correct'").set_index("features")
    row = contrasts.loc[("sae.topk.max", "baseline")]
    assert row["against_features"] == "dense.last"  # it validates better than words
    assert row["delta"] == pytest.approx(probes.loc["sae.topk.max", "auroc"] - probes.loc["dense.last", "auroc"])
    assert row["delta_low"] <= row["delta"] <= row["delta_high"]
    assert contrasts.loc[("sae.topk.max", "surface"), "against_features"] in ("words", "none")
    assert contrasts.loc[("sae.topk.max", "surface"), "delta"] > 0.2
    assert ("dense.last", "surface") in contrasts.index
    assert set(pd.read_parquet(found["contrasts"])["measure"]) == {"auroc", "r2"}


def test_scores_are_probabilities_of_binary_tasks_on_val_and_test(planted_fits: tuple[Path, list[Path]], tmp_path: Path) -> None:
    _, manifests = planted_fits
    found = compared(manifests, tmp_path)
    rows = read_probe_scores(found["scores"], task="correct", features="dense.last", model="l2", layer=1).to_pandas()
    assert set(rows["split"]) == {"val", "test"}
    assert rows["p"].between(0, 1).all()
    assert not rows.duplicated(["trace", "step"]).any()
    truth = {(row["trace"], row["step"]): row["correct"] for row in planted_steps(96).rows}
    right = np.array([truth[trace, step] for trace, step in zip(rows["trace"], rows["step"], strict=True)])
    assert rows["p"][right].mean() > rows["p"][~right].mean() + 0.3
    assert abs(rows["p"].mean() - right.mean()) < 0.1
    assert {row["task"] for row in found["told"]["probes"]} == {"correct"}
    assert {row["features"]: row["family"] for row in found["told"]["probes"]}["sae.topk.max"] == "sae"


def test_codes_are_used_only_where_they_validate_better_than_every_baseline() -> None:
    rows = pd.DataFrame(
        [
            ("a", "sae", 0.8),
            ("a", "dense", 0.7),
            ("a", "surface", 0.75),
            ("b", "sae", 0.7),
            ("b", "random", 0.7),
            ("c", "sae", 0.6),
        ],
        columns=["task", "family", "validation"],
    )
    assert with_use(rows)["used"].tolist() == [True, None, None, False, None, True]


def test_a_direction_that_turns_is_lost_on_the_way_and_a_latent_that_stays_is_not(tmp_path: Path) -> None:
    """Between stages the dense direction turns by 90° and the latent stays what it was."""
    stages = []
    for number, stage in enumerate(("base", "ppo_0001")):
        folder = tmp_path / stage
        planted = planted_steps(96, seed=number, drift=number * np.pi / 2)
        if number:
            planted.sets["base_sae.topk.max"] = planted.sets["sae.topk.max"]
        fitted(planted, folder, stage, layers=(1,))
        stages.append(StageFiles(stage, folder / "labels.parquet", folder / "features.h5", folder / "layer_1/weights.parquet"))
    settings = SETTINGS.model_copy(update={"sets": None})
    table = tmp_path / "transfer.parquet"
    transfer_probes(
        run="strict", layer=1, stages=stages, parquet=table, manifest=tmp_path / "m.json", settings=settings, bootstrap=BOOTSTRAP
    )  # fmt: skip
    found = pd.read_parquet(table).set_index(["view", "fit_stage", "stage"])
    assert set(found.index.get_level_values("view")) == {"dense", "own"}
    for stage in ("base", "ppo_0001"):
        own = found.loc[("dense", stage, stage)]
        probes = pd.read_parquet(tmp_path / stage / "layer_1/probes.parquet").set_index(["task", "features"])
        assert own["auroc"] == pytest.approx(probes.loc[("correct", "dense.last"), "auroc"])
        assert (own["excess"], own["excess_low"]) == (0, 0)
    lost, kept = found.loc[("dense", "base", "ppo_0001")], found.loc[("own", "base", "ppo_0001")]
    assert lost["excess_high"] < -0.3
    assert abs(lost["auroc"] - 0.5) < 0.12
    assert abs(kept["excess"]) < 0.06


@pytest.mark.parametrize(
    ("features", "stage", "views"),
    [("dense.last", "ppo_0001", [("dense", "dense.last")]), ("sae.topk.max", "ppo_0001", [("own", "sae.topk.max")]),
     ("sae.topk.max", "base", [("own", "sae.topk.max"), ("frozen", "base_sae.topk.max")]),
     ("base_sae.topk.max", "ppo_0001", [("frozen", "base_sae.topk.max")]), ("sae_error.topk.last", "base", [])],
)  # fmt: skip
def test_the_sae_of_base_is_own_and_frozen_at_base(features: str, stage: str, views: list[tuple[str, str]]) -> None:
    assert view_of(features, stage) == views


def test_tables_hold_what_every_fit_left(planted_fits: tuple[Path, list[Path]], tmp_path: Path) -> None:
    folder, manifests = planted_fits
    compared(manifests, tmp_path)
    tables = {name: (tmp_path / f"{name}.parquet", tmp_path / f"{name}.csv") for name in PROBE_TABLES}
    told = tmp_path / "tables.json"
    probe_tables(
        fits=manifests, compared=[tmp_path / "manifest.json"], transfers=[], tables=tables, manifest=told, bootstrap=BOOTSTRAP
    )  # fmt: skip
    probes = pd.read_parquet(tables["probes"][0])
    parts = [pd.read_parquet(folder / f"layer_{layer}/probes.parquet") for layer in LAYERS]
    assert len(probes) == sum(map(len, parts))
    judged = probes.query("task == 'correct'").set_index("features")
    best = judged.loc[judged["family"] != "sae", "validation"].max()
    assert judged.loc["sae.topk.max", "used"] == (judged.loc["sae.topk.max", "validation"] > best)
    assert probes.loc[probes["features"] != "sae.topk.max", "used"].isna().all()
    assert pd.read_parquet(tables["probe_transfer"][0]).empty
    assert json.loads(told.read_text())["tables"]["probes"]["rows"] == len(probes)
    assert len(pd.read_csv(tables["probes"][1])) == len(probes)
