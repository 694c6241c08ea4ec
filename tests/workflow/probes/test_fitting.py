"""Probes of planted steps: the latent that knows is found, labels dealt out anew know nothing, no order or leak gets through."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from planted_steps import DIRECTION, LATENT, PlantedSteps, planted_steps
from scipy.sparse import csr_array
from scipy.special import log_softmax

from workflow.config.probe_fits import ProbeFitsConfig
from workflow.config.section import ConfigError
from workflow.formats.probe_fits import FILES, read_weights
from workflow.formats.step_codes import SCHEMA as CODES
from workflow.probes import linear, numbers_and_classes
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
    kept = read_weights(tmp_path / "weights.parquet")
    assert kept["correct", "sae.topk.max", "k_sparse_1"].columns[0].tolist() == [LATENT]
    assert np.abs(kept["correct", "dense.last", "l2"].matrix(6)).argmax() == DIRECTION
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


def test_codes_of_a_step_level_sae_are_joined_by_trace_and_step(tmp_path: Path) -> None:
    """In another order, and without every fifth step."""
    planted = planted_steps(64)
    labels, features = planted.write(tmp_path)
    order = [at for at in np.random.default_rng(0).permutation(len(planted.rows)) if at % 5]
    rows = [
        {"problem": one["problem"], "trace": one["trace"], "line": 0, "step": one["step"], "strict": 0, "flexible": 0,
         "latents": [int(one["correct"]), 2], "values": [0.8, 0.6]}
        for one in (planted.rows[at] for at in order)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows, schema=CODES.with_metadata({"d_code": "3"})), tmp_path / "codes.parquet")
    files = {name: str(tmp_path / f"{name}.parquet") for name in FILES}
    fit_probes(
        run="shared", stage="base", layer=None, labels=labels, features=features, codes={"ssae.base": tmp_path / "codes.parquet"},
        files=files, manifest=tmp_path / "m.json", settings=ProbeFitsConfig(**QUICK), bootstrap=BOOTSTRAP,
    )  # fmt: skip
    found = pd.read_parquet(files["probes"]).set_index("features").loc["ssae.base"]
    assert found["auroc"] == 1
    assert found["family"] == "sae"
    assert found["without_features"] == sum(one["split"] != "val" for one in planted.rows[::5])


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


@pytest.mark.parametrize("features", ["dense.last", "sae.topk.max"])
def test_the_weights_of_classes_say_what_the_probe_said(tmp_path: Path, features: str) -> None:
    planted = planted_steps(64)
    tables = fit(planted, tmp_path, tasks=["next_first_token"])
    kept = read_weights(tmp_path / "weights.parquet")["next_first_token", features, "l2"]
    assert kept.classes == ["0", "1", "2"]
    rows = planted.sets[features]
    log_p = log_softmax(rows @ kept.matrix(rows.shape[1]).T + kept.intercepts, axis=1)
    said = tables["held_out"].query("features == @features").set_index(["trace", "step"])["score"]
    for at, one in enumerate(planted.rows):
        if one["split"] != "train" and one["next_first_token"] is not None:
            assert said[one["trace"], one["step"]] == pytest.approx(log_p[at, one["next_first_token"]], abs=1e-5)


def test_fits_that_stop_early_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = planted_steps(48)
    whole = fit(planted, tmp_path / "whole", tasks=["correct", "next_first_token"], models=["l2", "l1"])["probes"]
    assert (whole["unconverged"] == 0).all()
    monkeypatch.setattr(linear, "MAX_ITERATIONS", 1)
    monkeypatch.setattr(numbers_and_classes, "MAX_ITERATIONS", 1)
    short = fit(planted, tmp_path / "short", tasks=["correct", "next_first_token"], models=["l2", "l1"])["probes"]
    assert (short["unconverged"] > 0).any()
    assert (short["unconverged"] <= 3 * 2 + 1).all()
    assert (short.query("features == 'dense.last' and model == 'l2'")["unconverged"] == 7).all()


@pytest.mark.parametrize("model", ["l1", "l2"])
def test_a_latent_that_is_always_active_is_no_second_intercept(tmp_path: Path, model: str) -> None:
    """Without being centred it keeps liblinear busy for thousands of iterations."""
    planted = planted_steps(64)
    codes = planted.sets["sae.topk.max"].toarray()
    draw = np.random.default_rng(0)
    codes[:, 0] = 0.999 + 0.001 * draw.random(len(codes))
    sets = planted.sets | {"sae.topk.max": csr_array(codes.astype(np.float32))}
    found = row(fit(planted._replace(sets=sets), tmp_path, models=[model], c_grid=[1.0]), "sae.topk.max", model)
    assert found["unconverged"] == 0
    assert found["auroc"] > 0.8
