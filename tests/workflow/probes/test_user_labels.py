"""Labels of users: merged by trace and step, and whatever is doubtful stays missing and is counted."""

import math
from pathlib import Path

import pandas as pd
import pytest

from workflow.config.section import ConfigError
from workflow.probes.user_labels import UserLabels


def table(path: Path, rows: list[dict]) -> Path:
    frame = pd.DataFrame(rows)
    match path.suffix:
        case ".csv":
            frame.to_csv(path, index=False)
        case ".jsonl":
            frame.to_json(path, orient="records", lines=True)
        case ".parquet":
            frame.to_parquet(path)
    return path


ROWS = [
    {"trace": "p1/base/0", "step": 0, "good": True, "score": 0.5, "mood": "glad"},
    {"trace": "p1/base/0", "step": 1, "good": False, "score": None, "mood": None},
    {"trace": "p1/base/9", "step": 0, "good": True, "score": 2.0, "mood": "sad"},
    {"trace": "p1/ppo_0008/0", "step": 0, "good": True, "score": 9.0, "mood": "sad"},
]


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_labels_of_steps_are_found(tmp_path: Path, ending: str) -> None:
    labels = UserLabels(table(tmp_path / f"labels{ending}", ROWS), run="shared", stage="base")
    assert labels.kinds == {"good": "bool", "score": "number", "mood": "text"}
    assert labels.of("p1/base/0", 0) == {"good": True, "score": 0.5, "mood": "glad"}
    assert labels.of("p1/base/0", 1) == {"good": False, "score": None, "mood": None}
    assert labels.of("p1/base/0", 2) == {}
    assert labels.report() == {"rows": 3, "elsewhere": 1, "duplicates": 0, "unlabelled": 1, "unknown": 1}


def test_labels_of_traces_hold_for_every_step(tmp_path: Path) -> None:
    labels = UserLabels(table(tmp_path / "a.csv", [{"trace": "p1/base/0", "hard": 1}]), run="shared", stage="base")
    assert [labels.of("p1/base/0", step) for step in range(2)] == [{"hard": True}] * 2
    assert labels.report()["unknown"] == 0


def test_a_key_that_occurs_twice_is_missing(tmp_path: Path) -> None:
    labels = UserLabels(table(tmp_path / "a.csv", [*ROWS, ROWS[0] | {"good": False}]), run="shared", stage="base")
    assert labels.of("p1/base/0", 0) == {}
    assert labels.of("p1/base/0", 1)["good"] is False
    assert labels.report() == {"rows": 4, "elsewhere": 1, "duplicates": 2, "unlabelled": 1, "unknown": 1}


def test_runs_are_told_apart(tmp_path: Path) -> None:
    rows = [{"run": run, "trace": "p1/ppo_0008/0", "good": run == "strict"} for run in ("strict", "other")]
    path = table(tmp_path / "a.csv", rows)
    assert UserLabels(path, run="strict", stage="ppo_0008").of("p1/ppo_0008/0", 0) == {"good": True}
    assert UserLabels(path, run="other", stage="ppo_0008").of("p1/ppo_0008/0", 0) == {"good": False}


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_texts_that_say_true_are_true_and_what_is_not_there_is_missing(tmp_path: Path, ending: str) -> None:
    said = ["true", "False", " TRUE", None, "no"]
    rows = [{"trace": f"p{at}/base/0", "good": value, "score": score} for at, (value, score) in enumerate(
        zip(said, [1.5, math.nan, math.inf, -2.0, 0.0], strict=True)
    )]  # fmt: skip
    labels = UserLabels(table(tmp_path / f"labels{ending}", rows), run="shared", stage="base")
    assert labels.kinds == {"good": "bool", "score": "number"}
    found = [labels.of(f"p{at}/base/0", 0) for at in range(5)]
    assert [one["good"] for one in found] == [True, False, True, None, False]
    assert [one["score"] for one in found] == [1.5, None, None, -2.0, 0.0]


def test_times_are_texts_and_a_list_is_refused(tmp_path: Path) -> None:
    times = table(tmp_path / "a.parquet", [{"trace": "p1/base/0", "when": pd.Timestamp("2026-01-02")}])
    assert UserLabels(times, run="shared", stage="base").of("p1/base/0", 0)["when"].startswith("2026-01-02")
    several = table(tmp_path / "a.jsonl", [{"trace": "p1/base/0", "when": [1, 2]}])
    with pytest.raises(ConfigError, match="A label must be one value"):
        UserLabels(several, run="shared", stage="base")


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"id": "p1", "good": True}], "must have the column trace"),
        ([{"trace": "p1/base/0"}], "at least one label"),
        ([{"trace": "p1/base/0", "step": "first", "good": True}], "whole numbers from 0"),
    ],
)
def test_other_tables_are_refused(tmp_path: Path, rows: list[dict], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        UserLabels(table(tmp_path / "a.csv", rows), run="shared", stage="base")


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("labels")
    with pytest.raises(ConfigError, match="must be a readable table of labels"):
        UserLabels(tmp_path / "a.parquet", run="shared", stage="base")
