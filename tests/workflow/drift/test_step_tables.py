"""Tables of step-level SAEs: ratios by problem, exact identities, and what is told where an SSAE or a chain is missing."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from workflow.config.section import ConfigError
from workflow.drift.step_rows import Cell, StepMeasurement, decomposition_rows, transfer_rows
from workflow.drift.step_tables import step_tables
from workflow.formats.step_columns import STEP_TABLES
from workflow.formats.step_sums import write_step_sums

STAGES = [("base", 0), ("ppo_0008", 8)]
BOOTSTRAP = {"replicates": 200, "confidence": 0.95, "seed": 0}
PLACE = {"run": "strict", "text": "onpolicy", "seed": 0}
EVERY = [
    Cell(chain, ssae, stage)
    for chain, ssae in [("real", "base"), ("real", "ppo_0008"), ("null", "ppo_0008")]
    for stage in ("base", "ppo_0008")
]


GAIN = 0.25


def sums(level: float, seed: int = 0, problems: int = 30) -> pd.DataFrame:
    """Problems of unequal length with about `level` nats per token."""
    draw = np.random.default_rng(seed)
    tokens = draw.integers(5, 60, problems)
    nll = tokens * (level + 0.1 * np.random.default_rng(1).standard_normal(problems))
    steps = np.maximum(tokens // 10, 1)
    names = [f"p{at:03d}" for at in range(problems)]
    return pd.DataFrame(
        {"problem": names, "steps": steps, "tokens": tokens, "nll": nll, "nll_mean_code": nll + GAIN * tokens, "l1": 3.0 * steps,
         "active": 20.0 * steps}
    )  # fmt: skip


LEVELS = dict(zip(EVERY, [1.0, 1.5, 1.2, 1.1, 0.9, 1.6], strict=True))


def measured(cells: list[Cell] = EVERY) -> StepMeasurement:
    return StepMeasurement({cell: sums(LEVELS[cell]) for cell in cells}, BOOTSTRAP)


def test_terms_add_up_and_have_the_planted_size() -> None:
    (row,) = decomposition_rows(measured(), PLACE, STAGES)
    assert row.shift.value == pytest.approx(0.5)
    assert row.refit
    assert row.refit.value == pytest.approx(-0.4)
    assert row.null_refit
    assert row.null_refit.value == pytest.approx(-0.1)
    assert row.adaptation
    assert row.adaptation.value == pytest.approx(-0.3)
    assert row.delta
    assert row.delta.value == pytest.approx(row.shift.value + row.refit.value)
    assert row.shift.low <= row.shift.value <= row.shift.high


def test_differences_are_paired_by_problem() -> None:
    """The same problems are hard for every SSAE here, so differences are certain while levels are not."""
    (row,) = decomposition_rows(measured(), PLACE, STAGES)
    level = next(iter(transfer_rows(measured(), PLACE, dict(STAGES)))).nll
    assert row.shift.high - row.shift.low < 1e-6 < level.high - level.low
    gain = next(iter(transfer_rows(measured(), PLACE, dict(STAGES)))).code_gain
    assert (gain.low, gain.high) == pytest.approx((GAIN, GAIN))


def test_a_longer_problem_weighs_more() -> None:
    frame = pd.DataFrame(
        {"problem": ["a", "b"], "steps": [1, 3], "tokens": [10, 30], "nll": [10.0, 60.0], "nll_mean_code": [10.0, 66.0],
         "l1": [1, 9], "active": [1, 9]}
    )  # fmt: skip
    found = next(iter(transfer_rows(StepMeasurement({EVERY[0]: frame}, BOOTSTRAP), PLACE, dict(STAGES))))
    assert found.nll.value == pytest.approx(70 / 40)
    assert found.code_gain.value == pytest.approx(6 / 40)
    assert found.l1.value == pytest.approx(10 / 4)


def test_what_is_missing_is_null() -> None:
    (frozen,) = decomposition_rows(measured(EVERY[:2]), PLACE, STAGES)
    assert frozen.shift.value == pytest.approx(0.5)
    assert (frozen.delta, frozen.refit, frozen.null_refit, frozen.adaptation) == (None, None, None, None)
    (unpaired,) = decomposition_rows(measured(EVERY[:4]), PLACE, STAGES)
    assert unpaired.refit is not None
    assert unpaired.adaptation is None
    assert list(decomposition_rows(measured(EVERY[:1]), PLACE, STAGES)) == []
    assert [row.excess is None for row in transfer_rows(measured(EVERY[:2]), PLACE, dict(STAGES))] == [False, True]


def test_a_problem_without_steps_at_one_stage_counts_nothing_there() -> None:
    fewer = sums(1.5).iloc[:-4]
    found = StepMeasurement({EVERY[0]: sums(1.0), EVERY[1]: fewer}, BOOTSTRAP)
    rows = list(transfer_rows(found, PLACE, dict(STAGES)))
    assert [row.prompts for row in rows] == [30, 30]
    assert rows[1].nll.value == pytest.approx(float(fewer["nll"].sum() / fewer["tokens"].sum()))


def test_one_problem_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 2 prompts"):
        StepMeasurement({EVERY[0]: sums(1.0, problems=1)}, BOOTSTRAP)


def test_the_ssae_of_base_is_told_in_every_run_on_the_steps_of_that_run(tmp_path: Path) -> None:
    files = []
    for run, chain, stage in [("shared", "real", "base"), ("strict", "real", "ppo_0008"), ("loose", "real", "ppo_0008")]:
        mine = [
            {"run": owner, "text": "onpolicy", "stage": at, **row}
            for owner, at, level in [("loose", "ppo_0008", 2.0), ("shared", "base", 1.0), ("strict", "ppo_0008", 1.5)]
            if owner in ("shared", run) or run == "shared"
            for row in sums(level).to_dict("records")
        ]
        place = tmp_path / run / stage
        facts = {"run": run, "chain": chain, "seed": 0, "stage": stage, "ssae": "d", "d_code": 64, "steps": []}
        write_step_sums(place / "sums.parquet", place / "firings.safetensors", place / "manifest.json", mine, {}, **facts)
        files.append((place / "sums.parquet", place / "manifest.json"))
    tables = {name: (tmp_path / f"{name}.parquet", tmp_path / f"{name}.csv") for name in STEP_TABLES}
    stages = {"strict": STAGES, "loose": STAGES}
    step_tables(measured=files, stages=stages, bootstrap=BOOTSTRAP, tables=tables, manifest=tmp_path / "manifest.json")
    terms = pd.read_parquet(tables["ssae_decomposition"][0]).set_index("run")
    assert terms.loc["strict", "shift"] == pytest.approx(0.5)
    assert terms.loc["loose", "shift"] == pytest.approx(1.0)
    transfer = pd.read_csv(tables["ssae_transfer"][1])
    assert len(transfer) == 8
    assert set(transfer.columns) >= {"nll_low", "l1_high", "excess", "steps"}
