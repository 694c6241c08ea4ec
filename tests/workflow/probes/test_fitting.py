"""Probes of planted steps: the latent that knows is found, labels dealt out anew know nothing, no order or leak gets through."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from planted_steps import DIRECTION, LATENT, PlantedSteps, planted_steps
from scipy.sparse import csr_array

from workflow.config.probe_fits import ProbeFitsConfig
from workflow.config.section import ConfigError
from workflow.formats.probe_fits import FILES, read_weights
from workflow.probes.fitting import fit_probes

BOOTSTRAP = {"replicates": 200, "confidence": 0.95, "seed": 0}
QUICK = {"tasks": ["correct"], "models": ["l2"], "c_grid": [0.01, 0.1], "folds": 3, "permutations": 0}
Tables = dict[str, pd.DataFrame]


def fit(planted: PlantedSteps, folder: Path, *, layer: int | None = 1, **settings: Any) -> Tables:
    labels, features = planted.write(folder)
    files = {name: str(folder / f"{name}.parquet") for name in FILES}
    fit_probes(
        run="shared", stage="base", layer=layer, labels=labels, features=features, codes={}, files=files,
        manifest=folder / "manifest.json", settings=ProbeFitsConfig(**(QUICK | settings)), bootstrap=BOOTSTRAP,
    )  # fmt: skip
    return {name: pd.read_parquet(path) for name, path in files.items()}


def row(tables: Tables, features: str, model: str = "l2", task: str = "correct") -> pd.Series:
    rows = tables["probes"].set_index(["task", "features", "model"])
    return rows.loc[(task, features, model)]


def test_the_planted_latent_is_found_and_its_auroc_is_that_of_bayes(tmp_path: Path) -> None:
    """One latent that fires on 90 % of true and 10 % of false steps, and tells no more: AUROC 0.9."""
    tables = fit(planted_steps(160), tmp_path, models=["l2", "k_sparse"], k=[1])
    found = row(tables, "sae.topk.max", "k_sparse_1")
    assert found["auroc_low"] <= 0.9 <= found["auroc_high"]
    assert found["nonzero"] == 1
    (weight,) = (
        at for at in read_weights(tmp_path / "weights.parquet")["correct", "sae.topk.max", "k_sparse_1"] if at["column"] >= 0
    )
    assert weight["column"] == LATENT
    dense = read_weights(tmp_path / "weights.parquet")["correct", "dense.last", "l2"]
    assert max(dense[1:], key=lambda at: abs(at["weight"]))["column"] == DIRECTION
    assert found["ece"] < 0.12
    assert found["brier"] < 0.15 < 0.25


@pytest.mark.parametrize("seed", range(3))
def test_permuted_labels_know_nothing(tmp_path: Path, seed: int) -> None:
    controls = fit(planted_steps(96, seed=seed), tmp_path, permutations=3)["controls"]
    permuted = controls[(controls["control"] == "permuted") & (controls["features"] == "dense.last")]
    assert len(permuted) == 3
    assert sum(one["auroc_low"] <= 0.5 <= one["auroc_high"] for _, one in permuted.iterrows()) >= 2
    assert permuted["auroc"].mean() == pytest.approx(0.5, abs=0.09)


def test_controls_keep_what_a_step_knows_beyond_length_and_place(tmp_path: Path) -> None:
    controls = fit(planted_steps(96), tmp_path)["controls"].set_index(["features", "control"])["auroc"]
    for control in ("same_length", "same_step", "before_error"):
        assert controls["dense.last", control] > 0.8


def test_a_label_that_is_length_alone_vanishes_within_lengths(tmp_path: Path) -> None:
    planted = planted_steps(96)
    middle = np.median([one["tokens"] for one in planted.rows])
    for one in planted.rows:
        one["correct"] = bool(one["tokens"] <= middle)
    length = np.array([[one["tokens"] / 30] for one in planted.rows]) + np.zeros((1, 6))
    tables = fit(planted._replace(sets=planted.sets | {"dense.last": length.astype(np.float32)}), tmp_path)
    assert row(tables, "dense.last")["auroc"] > 0.99
    within = tables["controls"].set_index(["features", "control"]).loc[("dense.last", "same_length")]
    assert within["steps"] > 0
    assert pd.isna(within["auroc"])  # all steps of one quartile have one label: no pair is left


def test_the_order_of_the_steps_does_not_matter(tmp_path: Path) -> None:
    planted = planted_steps(48)
    order = np.random.default_rng(3).permutation(len(planted.rows))
    mixed = PlantedSteps([planted.rows[at] for at in order], {name: rows[order] for name, rows in planted.sets.items()})
    straight, turned = fit(planted, tmp_path / "a"), fit(mixed, tmp_path / "b")
    for name in ("probes", "held_out", "weights"):
        pd.testing.assert_frame_equal(straight[name], turned[name])
    again = fit(planted, tmp_path / "c")
    assert all(
        (tmp_path / "a" / f"{name}.parquet").read_bytes() == (tmp_path / "c" / f"{name}.parquet").read_bytes() for name in again
    )


def in_two_splits(rows: list[dict[str, Any]]) -> None:
    rows[0]["split"] = "test" if rows[0]["split"] == "train" else "train"


def near_duplicates_apart(rows: list[dict[str, Any]]) -> None:
    train, test = (next(at for at in rows if at["split"] == split)["problem"] for split in ("train", "test"))
    for at in rows:
        at["group"] = "twins" if at["problem"] in (train, test) else at["group"]


def twice(rows: list[dict[str, Any]]) -> None:
    rows[1] |= {name: rows[0][name] for name in ("problem", "group", "split", "trace", "step")}


@pytest.mark.parametrize(
    ("spoil", "told"),
    [(in_two_splits, "problem p000 has test, train"), (near_duplicates_apart, "group twins has test, train"),
     (twice, "step 0 of trace p000/base/0 stands twice")],
)  # fmt: skip
def test_leaks_are_refused(tmp_path: Path, spoil: Callable[[list[dict[str, Any]]], None], told: str) -> None:
    planted = planted_steps(24)
    spoil(planted.rows)
    with pytest.raises(ConfigError, match=told):
        fit(planted, tmp_path)


def test_features_of_other_steps_are_refused(tmp_path: Path) -> None:
    planted = planted_steps(24)
    _, features = planted.write(tmp_path / "other")
    labels, _ = PlantedSteps(planted.rows[::-1], planted.sets).write(tmp_path)
    with pytest.raises(ConfigError, match="must hold the steps of the labels in their order"):
        fit_probes(
            run="shared", stage="base", layer=1, labels=labels, features=features, codes={},
            files={name: str(tmp_path / name) for name in FILES}, manifest=tmp_path / "m.json", settings=ProbeFitsConfig(**QUICK),
            bootstrap=BOOTSTRAP,
        )  # fmt: skip


def test_missing_labels_are_left_out_counted_and_never_false(tmp_path: Path) -> None:
    """Only steps whose label is false lose it: read as 0 they would halve the share of true ones."""
    planted = planted_steps(96)
    draw = np.random.default_rng(0)
    for one in planted.rows:
        if one["correct"] is False and draw.random() < 0.7:
            one["correct"] = None
    found = row(fit(planted, tmp_path), "dense.last")
    known = [one for one in planted.rows if one["correct"] is not None]
    outside_val = [one for one in planted.rows if one["split"] != "val"]
    assert found["train_steps"] == sum(one["split"] == "train" for one in known)
    assert found["missing"] == sum(one["correct"] is None for one in outside_val)
    assert found["prevalence"] == pytest.approx(np.mean([one["correct"] for one in known if one["split"] == "test"]))
    held = pd.read_parquet(tmp_path / "held_out.parquet").query("features == 'dense.last'")
    assert held["label"].isna().sum() == sum(one["correct"] is None for one in planted.rows if one["split"] != "train")
    assert held["score"].notna().all()  # voting weighs these steps, too


@pytest.mark.parametrize(("split", "told"), [("train", "for training"), ("test", "for testing")])
def test_a_class_with_one_member_is_told_and_not_fitted(tmp_path: Path, split: str, told: str) -> None:
    planted = planted_steps(48)
    members = [one for one in planted.rows if one["split"] == split]
    for at, one in enumerate(members):
        one["correct"] = at == 0
    tables = fit(planted, tmp_path)
    assert set(tables["probes"]["not_fitted"].str.contains(rf"{told}: 1 with the label true, fewer than")) == {True}
    assert tables["probes"]["auroc"].isna().all()
    assert tables["controls"].empty
    assert len(tables["held_out"]) == 0


def test_steps_without_features_are_left_out_and_counted(tmp_path: Path) -> None:
    planted = planted_steps(48)
    planted.sets["dense.last"][::3] = np.nan
    found = row(fit(planted, tmp_path), "dense.last")
    lost = [one for one in planted.rows[::3] if one["split"] != "val"]
    assert found["without_features"] == len(lost)
    assert found["train_steps"] + found["steps"] + len(lost) == sum(one["split"] != "val" for one in planted.rows)


def test_sets_of_no_layer_are_fitted_apart(tmp_path: Path) -> None:
    planted = planted_steps(48)
    for one in planted.rows:
        one["text"] += " right" if one["correct"] else " wrong"
    tables = fit(planted, tmp_path, layer=None)
    assert list(dict.fromkeys(tables["probes"]["features"])) == ["none", "surface", "words", "characters", "surface+words"]
    assert row(tables, "none", "prevalence")["auroc"] == 0.5
    assert row(tables, "words")["auroc"] > 0.99
    weights = tables["weights"].query("features == 'words' and column >= 0")
    assert set(weights.sort_values("weight")["name"].iloc[[0, -1]]) <= {"wrong", "right"}


def test_numbers_and_tokens_are_told_in_their_own_measures(tmp_path: Path) -> None:
    planted = planted_steps(96)
    for one, length in zip(planted.rows, planted.sets["dense.last"][:, 0], strict=True):
        one["length"] = int(20 + 5 * length)
        one["next_first_token"] = int(one["correct"]) if one["next_first_token"] is not None else None
    tables = fit(planted, tmp_path, tasks=["length", "next_first_token", "user_score"], thresholds={"user_score": 0.5})
    length = row(tables, "dense.last", task="length")
    assert length["same_step"]
    assert length["r2"] > 0.99
    assert length["mae"] < 0.6  # rounding to whole tokens alone gives about 0.5
    token = row(tables, "dense.last", task="next_first_token")
    assert token["nats"] < 0.6 * np.log(2)
    assert token["classes"] == 3
    assert not token["same_step"]
    assert row(tables, "dense.last", task="user_score")["kind"] == "binary"


def test_a_task_without_a_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be a label column; got corect"):
        fit(planted_steps(24), tmp_path, tasks=["corect"])


def test_a_latent_that_never_fires_has_no_weight(tmp_path: Path) -> None:
    planted = planted_steps(48)
    codes = planted.sets["sae.topk.max"].toarray()
    codes[:, 0] = 0
    tables = fit(planted._replace(sets=planted.sets | {"sae.topk.max": csr_array(codes)}), tmp_path)
    assert 0 not in set(tables["weights"].query("features == 'sae.topk.max'")["column"])
