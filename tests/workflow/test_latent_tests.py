"""Tests of single latents: exact against scipy, no false discoveries on clustered firing, power where something was planted."""

import numpy as np
import pytest
from planted_firings import clustered_pair, firings_of
from scipy import stats

from workflow.config.section import ConfigError
from workflow.latent_tests import magnitude_tests, q_values, rate_tests
from workflow.prompt_firings import PairedFirings

RATES = 0.3 * np.arange(1, 401) ** -0.6


def small(seed: int = 0, latents: int = 7, prompts: int = 23) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    rows = draw.integers(5, 30, size=(2, prompts))
    return (*draw.binomial(rows[:, :, None], 0.2, size=(2, prompts, latents)), *rows)


def paired(before: np.ndarray, after: np.ndarray, rows: np.ndarray, rows_after: np.ndarray) -> PairedFirings:
    return PairedFirings(firings_of(before, rows), firings_of(after, rows_after))


def test_p_and_q_are_those_of_scipy() -> None:
    before, after, rows, rows_after = small()
    found = rate_tests(paired(before, after, rows, rows_after), min_firings=1, min_prompts=1, margin=0.2, confidence=0.95)
    expected = stats.ttest_rel(after / rows_after[:, None], before / rows[:, None])
    np.testing.assert_allclose(found.p, expected.pvalue, rtol=1e-10)
    np.testing.assert_allclose(found.q, stats.false_discovery_control(expected.pvalue), rtol=1e-10)
    np.testing.assert_allclose(found.q_dependent, stats.false_discovery_control(expected.pvalue, method="by"), rtol=1e-10)
    np.testing.assert_allclose(found.rate_base, (before / rows[:, None]).mean(0))
    np.testing.assert_allclose(found.rate, (after / rows_after[:, None]).mean(0))


def test_stability_is_two_one_sided_tests() -> None:
    before, after, rows, rows_after = small()
    found = rate_tests(paired(before, after, rows, rows_after), min_firings=1, min_prompts=1, margin=0.5, confidence=0.95)
    old, new = before / rows[:, None], after / rows_after[:, None]
    above = stats.ttest_rel(new, 0.5 * old, alternative="greater").pvalue
    below = stats.ttest_rel(new, 1.5 * old, alternative="less").pvalue
    np.testing.assert_allclose(found.stable_p, np.maximum(above, below), rtol=1e-10)
    np.testing.assert_allclose(found.stable_q, stats.false_discovery_control(found.stable_p), rtol=1e-10)


def test_blocks_of_latents_and_prompts_without_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before, after, rows, rows_after = small()
    thresholds = {"min_firings": 1, "min_prompts": 1, "confidence": 0.9}
    whole = rate_tests(paired(before, after, rows, rows_after), margin=0.2, **thresholds)
    strong = magnitude_tests(paired(before, after, rows, rows_after), **thresholds)
    monkeypatch.setattr("workflow.prompt_firings.BLOCK_VALUES", 50)
    padded = [np.insert(part, 4, 0, axis=0) for part in (before, after, rows, rows_after)]
    for one, other in zip(rate_tests(paired(*padded), margin=0.2, **thresholds), whole, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    for one, other in zip(magnitude_tests(paired(*padded), **thresholds), strong, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_thresholds_pool_both_measurements() -> None:
    before, after = np.zeros((12, 4), dtype=np.int64), np.zeros((12, 4), dtype=np.int64)
    before[:10, 0] = 1
    after[:10, 0] = 1
    before[:10, 1] = 2
    before[:9, 2] = 50
    before[:5, 3], after[7:12, 3] = 1, 2
    rows = np.full(12, 60)
    found = rate_tests(paired(before, after, rows, rows), min_firings=20, min_prompts=10, margin=0.2, confidence=0.95)
    assert found.tested.tolist() == [True, True, False, False]
    assert np.isnan(found.p[2:]).all()
    assert np.isnan(found.q[2:]).all()
    assert found.p[0] == 1
    assert found.stable_p[0] < 1e-4
    assert found.p[1] < 0.01
    assert found.log_ratio[1] == -np.inf
    assert np.isnan(found.log_ratio_low[1])
    assert found.stable_p[1] > 0.99


def test_latents_that_never_fire_are_not_tested() -> None:
    nothing, rows = np.zeros((12, 3), dtype=np.int64), np.full(12, 60)
    found = rate_tests(paired(nothing, nothing, rows, rows), min_firings=1, min_prompts=1, margin=0.2, confidence=0.95)
    assert not found.tested.any()
    assert all(np.isnan(values).all() for values in found[1:])
    strong = magnitude_tests(paired(nothing, nothing, rows, rows), min_firings=1, min_prompts=1, confidence=0.95)
    assert all(np.isnan(values).all() for values in strong[1:])


def row_level_discoveries(pair: PairedFirings, rows: int, q: float) -> int:
    """What a two-proportion z-test over rows would claim: here only to show that the worlds are hard."""
    block, n = pair.block(np.arange(pair.d_sae)), pair.prompts * rows
    before, after = block.firings_base.sum(0) / n, block.firings.sum(0) / n
    pooled = (before + after) / 2
    p = 2 * stats.norm.sf(np.abs(after - before) / np.sqrt(2 * pooled * (1 - pooled) / n + 1e-300))
    return int((stats.false_discovery_control(p) <= q).sum())


def test_2000_null_latents_clustered_by_prompt_give_no_discoveries() -> None:
    pair = clustered_pair(0, np.tile(RATES, 5))
    found = rate_tests(pair, min_firings=20, min_prompts=10, margin=0.2, confidence=0.95)
    assert found.tested.sum() > 1500
    assert (found.q <= 0.05).sum() <= 1
    assert row_level_discoveries(pair, 120, 0.05) > 100
    assert np.mean(found.p[found.tested] <= 0.05) == pytest.approx(0.05, abs=0.02)


def test_the_false_discovery_proportion_is_controlled_and_planted_changes_are_found() -> None:
    factors = np.ones(400)
    factors[10:50:2], factors[11:50:2] = 2.0, 0.5
    changed, proportions, power, signs, coverage = factors != 1, [], [], [], []
    for seed in range(30):
        found = rate_tests(clustered_pair(seed, RATES, factors), min_firings=20, min_prompts=10, margin=0.2, confidence=0.95)
        listed = found.q <= 0.05
        proportions.append((listed & ~changed).sum() / max(listed.sum(), 1))
        power.append(listed[changed].mean())
        signs.append(np.sign(found.log_ratio[listed & changed]) == np.sign(np.log(factors[listed & changed])))
        truth = np.log(factors)
        inside = (found.log_ratio_low <= truth) & (truth <= found.log_ratio_high)
        coverage.append(inside[np.isfinite(found.log_ratio_low)].mean())
    assert np.mean(proportions) <= 0.05 + 2 * np.std(proportions) / len(proportions) ** 0.5
    assert np.mean(power) > 0.9
    assert np.concatenate(signs).all()
    assert 0.92 < np.mean(coverage) < 0.97


def test_worlds_without_change_rarely_have_any_discovery() -> None:
    claims = sum(
        (rate_tests(clustered_pair(seed, RATES), min_firings=20, min_prompts=10, margin=0.2, confidence=0.95).q <= 0.05).any()
        for seed in range(100, 160)
    )
    assert claims <= 60 * 0.05 + 2 * (60 * 0.05 * 0.95) ** 0.5


def test_stability_is_claimed_only_where_it_holds() -> None:
    factors = np.repeat([1.0, 1.2, 0.8, 1.5], 100)
    rates = np.full(400, 0.03)
    wrong, right = [], []
    for seed in range(12):
        found = rate_tests(
            clustered_pair(seed, rates, factors, prompts=600), min_firings=20, min_prompts=10, margin=0.2, confidence=0.95
        )
        wrong.append(found.stable_p[100:300] <= 0.05)
        right.append(found.stable_q[:100] <= 0.05)
        assert (found.stable_q[300:] > 0.05).all()
    assert 0.03 < np.mean(wrong) < 0.065
    assert np.mean(right) > 0.5


def test_no_evidence_is_not_stability() -> None:
    found = rate_tests(clustered_pair(0, RATES, prompts=15), min_firings=20, min_prompts=10, margin=0.2, confidence=0.95)
    assert (found.q > 0.05)[found.tested].mean() > 0.95
    assert (found.stable_q <= 0.05).sum() == 0


def strengths(seed: int, factor: float, prompts: int = 150) -> PairedFirings:
    """Latents whose activation is lognormal about a level per prompt, in the second measurement times a factor."""
    draw = np.random.default_rng(seed)
    rates, n = 0.2 * np.arange(1, 101) ** -0.5, np.full(prompts, 60)
    level = draw.lognormal(0, 0.5, size=(prompts, 100))
    measured = []
    for scale in (1.0, factor):
        counts = draw.binomial(60, np.clip(rates * draw.gamma(0.7, 1 / 0.7, size=(prompts, 100)), 0, 1))
        own = level * draw.lognormal(0, 0.2, size=level.shape) * scale
        measured.append(firings_of(counts, n, counts * own))
    return PairedFirings(*measured)


@pytest.mark.parametrize("factor", [1.0, 1.3])
def test_the_magnitude_ratio_has_intervals_that_cover(factor: float) -> None:
    covered, ratios, p = [], [], []
    for seed in range(25):
        found = magnitude_tests(strengths(seed, factor), min_firings=20, min_prompts=10, confidence=0.95)
        covered.append(((found.low <= factor) & (factor <= found.high))[found.tested])
        ratios.append(found.ratio[found.tested])
        p.append(found.p[found.tested])
    assert 0.92 < np.concatenate(covered).mean() < 0.98
    assert np.concatenate(ratios).mean() == pytest.approx(factor, rel=0.02)
    if factor == 1:
        assert np.mean(np.concatenate(p) <= 0.05) < 0.08
    else:
        assert np.mean(np.concatenate(p) <= 0.05) > 0.4


def test_the_interval_of_the_magnitude_ratio_agrees_with_a_bootstrap_over_prompts() -> None:
    pair = strengths(3, 1.3)
    found, block = magnitude_tests(pair, min_firings=20, min_prompts=10, confidence=0.95), pair.block(np.arange(20))
    weights = np.random.default_rng(0).multinomial(pair.prompts, np.full(pair.prompts, 1 / pair.prompts), size=2000)
    sums = [weights @ part for part in block]
    spread = np.log(sums[3] / sums[2] / (sums[1] / sums[0])).std(0)
    half = np.log(found.high / found.low)[:20] / 2 / stats.t.ppf(0.975, pair.prompts)
    np.testing.assert_allclose(half, spread, rtol=0.12)


def test_a_change_of_rate_is_none_of_magnitude_and_the_reverse() -> None:
    before, n = small(latents=40, prompts=200)[0], np.full(200, 30)
    more = paired(before, np.minimum(2 * before, 30), n, n)
    assert (rate_tests(more, min_firings=1, min_prompts=1, margin=0.2, confidence=0.95).q < 1e-3).all()
    np.testing.assert_allclose(magnitude_tests(more, min_firings=1, min_prompts=2, confidence=0.95).ratio, 1.0)
    stronger = PairedFirings(firings_of(before, n), firings_of(before, n, 3.0 * before))
    assert (rate_tests(stronger, min_firings=1, min_prompts=1, margin=0.2, confidence=0.95).p == 1).all()
    found = magnitude_tests(stronger, min_firings=1, min_prompts=2, confidence=0.95)
    np.testing.assert_allclose(found.ratio, 3.0)
    np.testing.assert_allclose(found.low, 3.0)


def test_activations_that_do_not_add_up_to_something_positive_have_no_ratio() -> None:
    before, _, rows, _ = small()
    found = magnitude_tests(
        PairedFirings(firings_of(before, rows), firings_of(before, rows, -1.0 * before)),
        min_firings=1,
        min_prompts=2,
        confidence=0.95,
    )
    assert found.tested.all()
    assert np.isnan(found.ratio).all()
    assert np.isnan(found.q).all()


def test_q_values_leave_out_what_was_not_tested() -> None:
    p = np.array([0.01, np.nan, 0.04, 0.03])
    np.testing.assert_allclose(q_values(p, "bh")[[0, 2, 3]], stats.false_discovery_control([0.01, 0.04, 0.03]))
    assert np.isnan(q_values(p, "by")[1])
    assert np.isnan(q_values(np.full(3, np.nan), "bh")).all()


def test_other_prompts_are_refused() -> None:
    before, after, rows, _ = small()
    names = [f"q{number}" for number in range(len(rows))]
    with pytest.raises(ConfigError, match=r"same prompts in the same order; got 23 and 23 of which 0 are shared\. Measure both"):
        PairedFirings(firings_of(before, rows), firings_of(after, rows, problems=names))
    with pytest.raises(ConfigError, match=r"23 and 22 of which 22 are shared"):
        PairedFirings(firings_of(before, rows), firings_of(after[:22], rows[:22]))


def test_a_prompt_with_rows_in_one_measurement_alone_is_refused() -> None:
    before, after, rows, _ = small()
    gone = rows.copy()
    after[3], gone[3] = 0, 0
    with pytest.raises(ConfigError, match=r"rows in both measurements or in none; 1 of 23 .* in one alone\. Leave"):
        PairedFirings(firings_of(before, rows), firings_of(after, gone))


def test_one_prompt_is_refused() -> None:
    before, after, rows, _ = small()
    with pytest.raises(ConfigError, match=r"at least 2 prompts with rows; got 1\. Measure on more"):
        PairedFirings(firings_of(before[:1], rows[:1]), firings_of(after[:1], rows[:1]))


def test_unlike_numbers_of_latents_are_refused() -> None:
    before, after, rows, _ = small()
    with pytest.raises(ConfigError, match=r"same latents; got 7 and 6\. Compare SAEs"):
        PairedFirings(firings_of(before, rows), firings_of(after[:, :6], rows))


@pytest.mark.parametrize("margin", [0.0, 1.0])
def test_a_margin_that_means_nothing_is_refused(margin: float) -> None:
    before, after, rows, _ = small()
    with pytest.raises(ConfigError, match=rf"between 0 and 1; got {margin}\. Write 0\.2"):
        rate_tests(paired(before, after, rows, rows), min_firings=1, min_prompts=1, margin=margin, confidence=0.95)
