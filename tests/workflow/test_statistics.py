"""Intervals by prompt: they cover the truth as often as they say, agree with theory, and never resample rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workflow.config.section import ConfigError
from workflow.statistics import Interval, interval, multiplicities, proportion, proportion_interval


@given(n_prompts=st.integers(2, 40), replicates=st.integers(1, 50), seed=st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_a_replicate_draws_as_many_prompts_as_there_are_and_the_seed_fixes_it(n_prompts: int, replicates: int, seed: int):
    counts = multiplicities(n_prompts, replicates, seed)
    assert counts.shape == (replicates, n_prompts)
    assert (counts >= 0).all()
    assert (counts.sum(axis=1) == n_prompts).all()
    assert np.array_equal(counts, multiplicities(n_prompts, replicates, seed))


def test_another_seed_draws_otherwise():
    assert not np.array_equal(multiplicities(30, 20, 0), multiplicities(30, 20, 1))


def test_multiplicities_have_the_moments_of_a_multinomial():
    counts = multiplicities(25, 20_000, 3)
    assert counts.mean(axis=0) == pytest.approx(np.ones(25), abs=0.04)
    assert counts.var(axis=0) == pytest.approx(np.full(25, 1 - 1 / 25), abs=0.05)
    assert np.cov(counts[:, 0], counts[:, 1])[0, 1] == pytest.approx(-1 / 25, abs=0.02)


@pytest.mark.parametrize("n_prompts", [0, 1])
def test_fewer_than_two_prompts_are_refused_in_three_parts(n_prompts: int):
    with pytest.raises(ConfigError, match=rf"must have at least 2 prompts; got {n_prompts}\. Measure on more"):
        multiplicities(n_prompts, 10, 0)


def test_an_interval_holds_the_stated_share_of_the_replicates():
    replicates = np.arange(1001.0)
    assert interval(replicates, 0.9) == Interval(pytest.approx(50.0), pytest.approx(950.0))
    assert interval(replicates, 0.9).contains(50.0)
    assert not interval(replicates, 0.9).contains(49.0)


def test_a_replicate_that_is_not_finite_is_refused():
    with pytest.raises(ConfigError, match=r"1 of 3 are not.*more prompts"):
        interval(np.array([0.1, np.nan, 0.2]), 0.95)


def clustered_world(seed: int, prompts: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Per-prompt numerator and denominator of a ratio whose truth is 0.5: prompts differ in level and in number of rows."""
    draw = np.random.default_rng(seed)
    rows = draw.integers(5, 40, size=prompts)
    level = 0.5 * draw.gamma(4.0, 0.25, size=prompts)
    return rows * level + np.sqrt(rows) * draw.normal(0, 0.1, size=prompts), rows.astype(float)


def test_coverage_is_nominal_on_clustered_rows():
    covered = 0
    for seed in range(300):
        numerator, denominator = clustered_world(seed)
        weights = multiplicities(60, 400, seed)
        covered += interval(weights @ numerator / (weights @ denominator), 0.95).contains(0.5)
    assert 0.90 <= covered / 300 <= 0.98


def test_pairing_by_prompt_gives_the_tight_interval_of_a_difference():
    numerator, denominator = clustered_world(0)
    weights = multiplicities(60, 2000, 0)
    base, changed = weights @ numerator / (weights @ denominator), weights @ (1.02 * numerator) / (weights @ denominator)
    paired, single = interval(changed - base, 0.95), interval(base, 0.95)
    assert paired.high - paired.low < 0.05 * (single.high - single.low)
    assert not paired.contains(0.0)


def test_bootstrap_error_of_a_mean_agrees_with_the_analytic_one():
    values = np.random.default_rng(5).normal(size=200)
    spread = (multiplicities(200, 4000, 1) @ values / 200).std()
    assert spread == pytest.approx(values.std() / np.sqrt(200), rel=0.05)


def test_a_proportion_counts_every_problem_once():
    outcomes, problems = [1, 1, 1, 0], ["a", "a", "a", "b"]
    assert proportion(outcomes, problems) == 0.5


def test_the_interval_of_a_proportion_does_not_shrink_with_copies_of_rows():
    draw = np.random.default_rng(2)
    outcomes, problems = draw.integers(0, 2, size=50), [f"p{i}" for i in range(50)]
    once = proportion_interval(outcomes, problems, 1000, 0.95, 0)
    assert proportion_interval(np.tile(outcomes, 9), problems * 9, 1000, 0.95, 0) == once
    assert once.contains(proportion(outcomes, problems))
    assert once.high - once.low == pytest.approx(2 * 1.96 * outcomes.std() / np.sqrt(50), rel=0.1)


def test_one_problem_has_no_interval():
    with pytest.raises(ConfigError, match="at least 2 prompts"):
        proportion_interval([1, 0, 1], ["a", "a", "a"], 100, 0.95, 0)


def test_outcomes_without_their_problems_are_refused():
    with pytest.raises(ConfigError, match="3 outcomes and 2 problems"):
        proportion([1, 0, 1], ["a", "b"])
