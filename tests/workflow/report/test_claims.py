"""What the page may say, and what it must not."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from workflow.report.claims import BEYOND, NO_NULL, NOT_BEYOND, claims, exploratory, one_side, repetitions
from workflow.report.evidence import Evidence, read_evidence


@pytest.fixture(scope="module")
def evidence(made_up: Callable[..., Any]) -> Evidence:
    study = made_up(seeds=[0, 1, 2], texts=["fixed", "replayed"])
    return read_evidence(study=study.study, **study.inputs)


def changed(evidence: Evidence, where: dict[str, Any], **values: Any) -> Evidence:
    """The evidence with other values in some rows of the decomposition."""
    table = evidence.decomposition.copy()
    rows = (table[list(where)] == pd.Series(where)).all(axis=1)
    assert rows.any()
    table.loc[rows, list(values)] = list(values.values())
    return evidence._replace(decomposition=table)


def fixed(evidence: Evidence) -> Any:
    return next(claim for claim in claims(evidence) if claim.text == "fixed")


def test_a_drift_that_passes_every_check_is_a_claim(evidence: Evidence) -> None:
    claim = fixed(evidence)
    assert claim.verdict == BEYOND
    assert claim.checks == {"shift": True, "adaptation": True, "nmse_anchored": True, "with sinks": True, "replayed": True}
    assert claim.seeds == 3
    assert claim.sentence.endswith("exploratory evidence that the stage differs from base beyond refit.")


@pytest.mark.parametrize(
    ("where", "values", "failing"),
    [
        ({"text": "fixed", "sinks": "dropped", "seed": 1}, {"adaptation_low": -0.01, "adaptation_high": 0.01}, "adaptation"),
        ({"text": "fixed", "sinks": "dropped", "seed": 2}, {"shift_low": -0.01}, "shift"),
        ({"text": "fixed", "sinks": "dropped", "seed": 0}, {"anchored_shift_low": -0.01}, "nmse_anchored"),
        ({"text": "fixed", "sinks": "included", "seed": 0}, {"adaptation_high": 0.01}, "with sinks"),
        ({"text": "replayed", "sinks": "dropped"}, {"shift": -0.01}, "replayed"),
    ],
)
def test_one_failing_check_of_one_seed_withdraws_the_claim(
    evidence: Evidence, where: dict[str, Any], values: dict[str, float], failing: str
) -> None:
    claim = fixed(changed(evidence, where, **values))
    assert claim.verdict == NOT_BEYOND
    assert claim.checks[failing] is False
    assert failing in claim.sentence.rpartition("it fails on ")[2]
    assert "evidence that the stage differs" not in claim.sentence


def test_seeds_on_opposite_sides_do_not_count_as_one_effect(evidence: Evidence) -> None:
    where = {"text": "fixed", "sinks": "dropped", "seed": 1}
    claim = fixed(changed(evidence, where, adaptation=0.03, adaptation_low=0.02, adaptation_high=0.04))
    assert claim.checks["adaptation"] is False
    assert "is not distinguished from refit" in claim.sentence


def test_an_interval_that_touches_zero_is_not_distinguished() -> None:
    assert one_side(pd.DataFrame({"x_low": [0.0], "x_high": [0.1]}), "x") == 0
    assert one_side(pd.DataFrame({"x_low": [0.01, 0.02], "x_high": [0.1, 0.1]}), "x") == 1
    assert one_side(pd.DataFrame({"x_low": [-0.2], "x_high": [-0.1]}), "x") == -1
    assert one_side(pd.DataFrame({"x_low": [float("nan")], "x_high": [float("nan")]}), "x") is None


def test_without_null_chain_nothing_is_claimed(made_up: Callable[..., Any]) -> None:
    study = made_up(chains=["real"])
    claim = fixed(read_evidence(study=study.study, **study.inputs))
    assert claim.verdict == NO_NULL
    assert claim.checks["adaptation"] is None
    assert claim.sentence.endswith("there is no null chain, so nothing is said about adaptation.")


def test_a_null_chain_of_another_l0_is_named_as_the_reason(evidence: Evidence) -> None:
    nothing = {f"{name}{end}": float("nan") for name in ("null_refit", "adaptation") for end in ("", "_low", "_high")}
    claim = fixed(changed(evidence, {"text": "fixed"}, **nothing, comparison_refused="l0 is 5.0 in the chain null and 3.0 in real"))
    assert claim.verdict == NO_NULL
    assert claim.sentence.endswith("l0 is 5.0 in the chain null and 3.0 in real, so nothing is said about adaptation.")


def test_runs_count_as_repetitions_only_when_nothing_but_the_seed_differs(made_up: Callable[..., Any]) -> None:
    runs = {"a": {}, "b": {"seed": 4}, "c": {"seed": 5, "kl_coef": 0.1}, "d": {"reward": "strict", "seed": 6}}
    study = made_up(runs=runs, seeds=[0, 1, 2])
    evidence = read_evidence(study=study.study, **study.inputs)
    assert repetitions(evidence) == {"a": 3, "b": 3, "c": 1, "d": 3}
    assert exploratory(evidence, "a") == []
    assert exploratory(evidence, "c") == ["1 RL seed of at least 2"]
