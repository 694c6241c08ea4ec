"""Differences between runs: paired by prompt, and only where the same problems were measured."""

from typing import Any

import pandas as pd
import pytest

from workflow.drift.contrasts import RunsByCell
from workflow.drift.estimates import Measurement
from workflow.formats.drift import DriftSums, read_drift_sums

REPLICATES = 200


def measured(sums: DriftSums, **facts: Any) -> Measurement:
    return Measurement(sums._replace(manifest=sums.manifest | facts), REPLICATES, 0.95, seed=0)


def contrasts(*runs: Measurement) -> pd.DataFrame:
    found = RunsByCell()
    for run in runs:
        found.add(run)
    return pd.DataFrame([row._asdict() for row in found.contrasts(0.95)])


@pytest.fixture
def sums(world) -> dict[float, DriftSums]:
    found = {}
    for angle in (0.4, 0.2):
        folder = world(angle=angle).write().measure()
        found[angle] = read_drift_sums(folder / "sums.safetensors", folder / "manifest.json")
    return found


def test_equal_runs_do_not_differ_at_all(sums) -> None:
    table = contrasts(measured(sums[0.4]), measured(sums[0.4], run="again"))
    assert len(table) == 4
    assert set(zip(table["run"], table["against"], strict=True)) == {("strict", "again")}
    assert all(value == (0, 0, 0) for column in ("shift", "adaptation") for value in table[column])


def test_a_run_that_drifts_more_is_told_apart_by_the_difference_of_its_terms(sums) -> None:
    far, near = measured(sums[0.4]), measured(sums[0.2], run="near")
    table = contrasts(far, near)
    for _, row in table[table["sinks"] == "dropped"].iterrows():
        terms, others = (run.terms(row["stage"], "dropped") for run in (far, near))
        assert row["shift"].value == pytest.approx(float(terms.shift[0] - others.shift[0]))
        assert row["shift"].low > 0
        assert row["adaptation"].high < 0
        # paired draws: prompts that are hard for both cancel
        assert row["shift"].high - row["shift"].low < 0.7 * sum(
            run.estimate(one.shift).high - run.estimate(one.shift).low for run, one in ((far, terms), (near, others))
        )


def test_runs_on_other_problems_stages_or_cells_are_not_compared(sums) -> None:
    one = measured(sums[0.4])
    others = {"problems": sums[0.4].manifest["problems"][::-1]}, {"layer": 99}, {"seed": 5}
    for facts in others:
        assert contrasts(one, measured(sums[0.2], run="other", **facts)).empty
    (base, first, second) = sums[0.2].manifest["stages"]
    renamed = measured(sums[0.2], run="other", stages=[base, first, [second[0], second[1] + 1]])
    assert set(contrasts(one, renamed)["stage"]) == {first[0]}
