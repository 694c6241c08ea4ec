"""Controllers of the L1 weight: the published steps, and one that reaches its target and stays there."""

import math

import pytest

from sae_core.training.sparsity_control import PredictiveControl, SparsityControl, SparsityTarget, StepwiseControl


def steps(control: SparsityControl, values: list[float]) -> list[float]:
    """The weight that each value is made with."""
    seen = []
    for value in values:
        seen.append(control.weight)
        control.observe(value)
    return seen


class TestStepwise:
    def test_moves_by_a_percent_after_every_hundred(self) -> None:
        control = StepwiseControl(SparsityTarget(10.0))
        seen = steps(control, [12.0] * 100 + [8.0] * 100)
        assert seen[:100] == [1e-4] * 100  # a batch is weighted before its own L1 is counted
        assert seen[100:] == pytest.approx([1.01e-4] * 100)
        assert control.weight == pytest.approx(1.01e-4 * 0.99)

    def test_the_mean_decides_and_the_target_itself_counts_as_low(self) -> None:
        control = StepwiseControl(SparsityTarget(10.0), every=4)
        steps(control, [40.0, 0.0, 0.0, 0.0])
        assert control.weight == pytest.approx(0.99e-4)

    @pytest.mark.parametrize(("l1", "bound", "moves"), [(11.0, 0.1, 695), (9.0, 1e-6, 459)])
    def test_takes_as_many_moves_to_its_bounds_as_published(self, l1: float, bound: float, moves: int) -> None:
        control = StepwiseControl(SparsityTarget(10.0), every=1)
        steps(control, [l1] * (moves - 1))
        assert control.weight != bound
        steps(control, [l1] * 3)
        assert control.weight == bound


def plant(control: SparsityControl, updates: int, *, slowness: float, strength: float, free: float = 13.0) -> list[float]:
    """L1 of codes that answer a weight slowly: log L1 falls towards log(free) − strength · log(1 + weight / 1e-3)."""
    level, seen = math.log(free), []
    for _ in range(updates):
        level += (math.log(free) - strength * math.log1p(control.weight / 1e-3) - level) / slowness
        seen.append(math.exp(level))
        control.observe(seen[-1])
    return seen


@pytest.mark.parametrize("slowness", [2.0, 10.0, 40.0])
@pytest.mark.parametrize("strength", [0.2, 0.5, 1.0])
def test_predictive_control_reaches_the_target_and_stays(slowness: float, strength: float) -> None:
    found = plant(PredictiveControl(SparsityTarget(10.0)), 600, slowness=slowness, strength=strength)
    assert all(abs(l1 / 10 - 1) < 0.05 for l1 in found[300:])


@pytest.mark.parametrize("slowness", [2.0, 10.0])
def test_predictive_control_is_there_sooner_than_the_published_one(slowness: float) -> None:
    ours, theirs = (
        plant(control(SparsityTarget(10.0)), 4000, slowness=slowness, strength=0.5)
        for control in (PredictiveControl, StepwiseControl)
    )

    def first_inside(values: list[float]) -> int:
        return next((at for at, l1 in enumerate(values) if abs(l1 / 10 - 1) < 0.05), len(values))

    assert first_inside(ours) * 4 < first_inside(theirs)


@pytest.mark.parametrize("kind", [StepwiseControl, PredictiveControl])
def test_goes_on_from_its_state(kind: type[SparsityControl]) -> None:
    values = [12 + math.sin(at) for at in range(250)]
    whole, first, second = (kind(SparsityTarget(10.0)) for _ in range(3))
    steps(whole, values)
    steps(first, values[:137])
    second.resume(first.state())
    steps(second, values[137:])
    assert second.weight == whole.weight
    assert second.state() == whole.state()


@pytest.mark.parametrize("kind", [StepwiseControl, PredictiveControl])
@pytest.mark.parametrize("l1", [0.0, 1.0, 1e6])
def test_stays_within_its_bounds(kind: type[SparsityControl], l1: float) -> None:
    control = kind(SparsityTarget(10.0))
    steps(control, [l1] * 3000)
    assert control.aim.low <= control.weight <= control.aim.high


@pytest.mark.parametrize(
    "values", [{"target": 0.5}, {"target": 10.0, "start": 1.0}, {"target": 10.0, "low": 0.0}, {"target": 10.0, "low": 1e-2}]
)
def test_impossible_targets_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="at least 1 and its weights 0 < low ≤ start ≤ high"):
        SparsityTarget(**values)
