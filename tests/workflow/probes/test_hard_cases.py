"""Pools with next to nothing in them: every cell says why it is empty, and the phase goes on to its tables."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from planted_steps import PlantedSteps, planted_steps
from scipy.sparse import csr_array

from workflow.config.probe_fits import ProbeFitsConfig
from workflow.formats.probe_columns import PROBE_TABLES
from workflow.formats.probe_fits import FILES, PATHS
from workflow.formats.probe_scores import SCORES
from workflow.probes.comparing import compare_probes
from workflow.probes.fitting import fit_probes
from workflow.probes.tables import probe_tables
from workflow.probes.transferring import StageFiles, transfer_probes

BOOTSTRAP = {"replicates": 100, "confidence": 0.95, "seed": 0}
QUICK = {"models": ["l2"], "c_grid": [0.01], "folds": 2, "min_problems": 2, "permutations": 0}
TASKS = ["correct", "length", "next_first_token"]
EVERY_MODEL = {"models": ["l2", "l1", "k_sparse", "pca", "mlp"], "k": [2], "components": [2], "mlp": {"epochs": 1, "hidden": 4}}
LAYERS = (1, None)


def only(planted: PlantedSteps, kept: Callable[[dict[str, Any]], bool]) -> PlantedSteps:
    places = [at for at, one in enumerate(planted.rows) if kept(one)]
    return PlantedSteps([planted.rows[at] for at in places], {name: rows[places] for name, rows in planted.sets.items()})


def whole_phase(stages: dict[str, PlantedSteps], folder: Path, **changes: Any) -> dict[str, pd.DataFrame]:
    """Fits, comparisons, transfer and tables of some stages."""
    settings = ProbeFitsConfig(**({"tasks": TASKS} | QUICK | changes))
    fits, compared, files = [], [], []
    for stage, planted in stages.items():
        labels, features = planted.write(folder / stage)
        for layer in LAYERS:
            place = folder / stage / f"layer_{layer}"
            paths = {name: place / PATHS[name] for name in FILES}
            fit_probes(
                run="r", stage=stage, layer=layer, labels=labels, features=features, codes={}, files=paths,
                manifest=place / "manifest.json", settings=settings, bootstrap=BOOTSTRAP,
            )  # fmt: skip
            fits.append(place / "manifest.json")
        scores = folder / stage / "scores.parquet"
        compare_probes(
            run="r", stage=stage, manifests=fits[-len(LAYERS) :], scores=scores, contrasts=scores.with_name("contrasts.parquet"),
            manifest=scores.with_name("manifest.json"), bootstrap=BOOTSTRAP,
        )  # fmt: skip
        compared.append(scores.with_name("manifest.json"))
        assert pd.read_parquet(scores).columns.tolist() == SCORES.names
        files.append(StageFiles(stage, labels, features, folder / stage / "layer_1" / PATHS["weights"]))
    transfer = folder / "transfer/transfer.parquet"
    transfer_probes(
        run="r", layer=1, stages=files, parquet=transfer, manifest=transfer.with_name("manifest.json"), settings=settings,
        bootstrap=BOOTSTRAP,
    )  # fmt: skip
    tables = {name: (folder / f"{name}.parquet", folder / f"{name}.csv") for name in PROBE_TABLES}
    probe_tables(
        fits=fits, compared=compared, transfers=[transfer.with_name("manifest.json")], tables=tables,
        manifest=folder / "manifest.json", bootstrap=BOOTSTRAP,
    )  # fmt: skip
    return {name: pd.read_parquet(path) for name, (path, _) in tables.items()}


def reasons(tables: dict[str, pd.DataFrame], stage: str, task: str = "correct") -> set[str]:
    rows = tables["probes"].query("stage == @stage and task == @task")
    return set(rows["not_fitted"].fillna("fitted"))


def test_a_stage_without_any_step_has_rows_that_say_so_and_leaves_the_others_alone(tmp_path: Path) -> None:
    full = planted_steps(32)
    tables = whole_phase({"base": full, "ppo_0001": only(full, lambda one: False)}, tmp_path)
    alone = whole_phase({"base": full}, tmp_path / "alone")
    for task in TASKS:
        assert "fitted" not in reasons(tables, "ppo_0001", task)
    assert "fitted" in reasons(tables, "base")
    assert set(tables["probe_contrasts"]["stage"]) == {"base"}
    pd.testing.assert_frame_equal(tables["probe_controls"], alone["probe_controls"])
    assert tables["probe_transfer"].empty


def test_one_test_problem_gives_no_number(tmp_path: Path) -> None:
    full = planted_steps(32)
    last = max(one["problem"] for one in full.rows if one["split"] == "test")
    tables = whole_phase({"base": only(full, lambda one: one["split"] != "test" or one["problem"] == last)}, tmp_path)
    assert all("for testing" in reason for reason in reasons(tables, "base"))
    assert reasons(tables, "base", "length") == {"1 groups of prompts for testing, fewer than 2"}
    assert tables["probes"]["auroc"].isna().all()


def test_two_problems_of_one_group_are_one(tmp_path: Path) -> None:
    full = planted_steps(32)
    kept = sorted({one["problem"] for one in full.rows if one["split"] == "test"})[:2]
    planted = only(full, lambda one: one["split"] != "test" or one["problem"] in kept)
    for one in planted.rows:
        one["group"] = "twins" if one["problem"] in kept else one["group"]
    assert reasons(whole_phase({"base": planted}, tmp_path), "base", "length") == {"1 groups of prompts for testing, fewer than 2"}


@pytest.mark.parametrize("task", ["correct", "next_first_token"])
def test_labels_that_are_all_missing_at_one_stage_are_no_zeros(tmp_path: Path, task: str) -> None:
    full, none = planted_steps(32), planted_steps(32)
    for one in none.rows:
        one[task] = None
    tables = whole_phase({"base": full, "ppo_0001": none}, tmp_path)
    assert "fitted" not in reasons(tables, "ppo_0001", task)
    assert "fitted" in reasons(tables, "ppo_0001", "length")
    rows = tables["probes"].query("stage == 'ppo_0001' and task == @task")
    assert (rows["missing"] == sum(one["split"] != "val" for one in none.rows)).all()
    assert rows["prevalence"].isna().all()


def test_constant_features_and_none_at_all_know_nothing(tmp_path: Path) -> None:
    full = planted_steps(32)
    count = len(full.rows)
    sets = {
        "dense.last": np.full((count, 3), 7, np.float32),
        "dense.mean": np.zeros((count, 0), np.float32),
        "sae.topk.max": csr_array(np.full((count, 4), 2, np.float32)),
        "sae.topk.last": csr_array((count, 0), dtype=np.float32),
        "sae.topk.mean": csr_array((count, 4), dtype=np.float32),
        "surface": full.sets["surface"],
    }
    probes = whole_phase({"base": PlantedSteps(full.rows, sets)}, tmp_path, tasks=["correct"], **EVERY_MODEL)["probes"]
    layered = probes[probes["layer"].notna()]
    assert set(layered["features"]) == set(sets) - {"surface"}
    fitted = layered[layered["not_fitted"].isna()]
    assert (fitted["auroc"] == 0.5).all()
    assert (fitted["auroc_low"] == 0.5).all()
    empty = layered[layered["features"].isin(["dense.mean", "sae.topk.last"])]
    assert set(empty["not_fitted"]) == {"the set has no columns"}


def test_near_duplicates_are_drawn_together(tmp_path: Path) -> None:
    """Every test problem twice: as many independent ones as before, so the same intervals."""
    full = planted_steps(48)
    twins = [at for at, one in enumerate(full.rows) if one["split"] == "test"]
    again = [full.rows[at] | {"problem": "q" + full.rows[at]["problem"], "trace": "q" + full.rows[at]["trace"]} for at in twins]
    both = PlantedSteps(
        [*full.rows, *again],
        {name: rows[[*range(len(full.rows)), *twins]] for name, rows in full.sets.items()},
    )
    once, twice = (whole_phase({"base": one}, tmp_path / name) for name, one in (("once", full), ("twice", both)))
    columns = ["auroc", "auroc_low", "auroc_high", "brier_low", "brier_high", "r2_low", "nats_high"]
    pd.testing.assert_frame_equal(once["probes"][columns], twice["probes"][columns])
    assert (twice["probes"]["prompts"] == 2 * once["probes"]["prompts"]).all()
    pd.testing.assert_frame_equal(
        once["probe_contrasts"][["delta_low", "delta_high"]], twice["probe_contrasts"][["delta_low", "delta_high"]]
    )
    alike = once["probe_controls"].query("control == 'same_step'")["auroc_low"]
    pd.testing.assert_series_equal(alike, twice["probe_controls"].query("control == 'same_step'")["auroc_low"])
