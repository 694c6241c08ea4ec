"""Held-out accuracy: base under every run, paired differences."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from workflow.report.accuracy import accuracy_table
from workflow.report.evidence import Evidence, read_evidence
from workflow.statistics import proportion_interval

DRIFT = {"replicates": 300, "confidence": 0.95, "seed": 0}


@pytest.fixture(scope="module")
def evidence(made_up: Callable[..., Any]) -> Evidence:
    study = made_up(runs={"strict": {}, "flexible": {"reward": "flexible"}})
    return read_evidence(study=study.study, **study.inputs)


def test_every_run_has_base_and_its_own_stages(evidence: Evidence) -> None:
    table = accuracy_table(evidence, DRIFT)
    assert list(zip(table["run"], table["stage"], strict=True)) == [
        ("strict", "base"), ("strict", "ppo_0008"), ("flexible", "base"), ("flexible", "ppo_0008"),
    ]  # fmt: skip
    assert table.loc[0, "strict"] == table.loc[2, "strict"]


def test_shares_and_intervals_are_those_of_the_statistics(evidence: Evidence) -> None:
    row = accuracy_table(evidence, DRIFT).iloc[1]
    mine = evidence.greedy[(evidence.greedy["run"] == "strict") & (evidence.greedy["stage"] == "ppo_0008")]
    assert row["strict"] == pytest.approx(mine["strict"].mean())
    expected = proportion_interval(mine["strict"].to_numpy(), mine["problem"].to_numpy(), 300, 0.95, 0)
    assert (row["strict_low"], row["strict_high"]) == pytest.approx(expected)


def test_the_difference_from_base_is_paired_by_problem(evidence: Evidence) -> None:
    problems = [f"p{i}" for i in range(40)]
    right = [i % 2 == 0 for i in range(40)]
    base = pd.DataFrame({"run": "shared", "stage": "base", "problem": problems, "strict": right, "flexible": right})
    better = [*([True] * 4), *right[4:]]
    later = pd.DataFrame({"run": "strict", "stage": "ppo_0008", "problem": problems, "strict": better, "flexible": right})
    shuffled = later.sample(frac=1.0, random_state=1)
    table = accuracy_table(evidence._replace(greedy=pd.concat([base, shuffled], ignore_index=True)), DRIFT)
    row = table[(table["run"] == "strict") & (table["stage"] == "ppo_0008")].iloc[0]
    assert row["strict_gain"] == pytest.approx(2 / 40)
    assert row["strict_gain_high"] - row["strict_gain_low"] < 0.2  # unpaired it would be about 0.4
    assert (row["flexible_gain"], row["flexible_gain_low"], row["flexible_gain_high"]) == (0, 0, 0)


def test_no_greedy_traces_give_an_empty_table(evidence: Evidence) -> None:
    assert accuracy_table(evidence._replace(greedy=pd.DataFrame()), DRIFT).empty
