"""Matching of dictionaries: planted renamings are undone, drift beyond the null chain is told from drift like it."""

import itertools

import numpy as np
import pytest
from scipy import stats

from workflow.drift import matching
from workflow.drift.matching import cosine_excess, density_bins, match, nearest, renaming_gap, unit

EVERY = 30_000


def directions(latents: int, d_model: int = 24, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(latents, d_model)))


def nudged(rows: np.ndarray, size: float = 0.05, seed: int = 7) -> np.ndarray:
    return unit(rows + size * np.random.default_rng(seed).normal(size=rows.shape))


def alive(latents: int, *dead: int) -> np.ndarray:
    mask = np.ones(latents, bool)
    mask[list(dead)] = False
    return mask


def test_the_matching_is_the_best_of_all() -> None:
    now, base = directions(5, 3), directions(6, 3, seed=1)
    found = match(now, base, alive(5), alive(6), EVERY)
    best = max(sum(now[i] @ base[j] for i, j in enumerate(chosen)) for chosen in itertools.permutations(range(6), 5))
    assert found.cosine.sum() == pytest.approx(best)
    assert found.exact
    assert found.mean == pytest.approx(best / 5)


@pytest.mark.parametrize("limit", [EVERY, 10])
def test_a_renaming_is_undone_and_leaves_matched_metrics_as_they_are(limit: int) -> None:
    base, order = directions(80), np.random.default_rng(3).permutation(80)
    now = nudged(base)
    plain, renamed = match(now, base, alive(80), alive(80), limit), match(now[order], base, alive(80), alive(80), limit)
    assert np.array_equal(plain.base, np.arange(80))
    assert np.array_equal(renamed.base, order)
    assert renamed.mean == pytest.approx(plain.mean)
    assert renamed.exact == (limit == EVERY)
    gap = renaming_gap(now[order], base, alive(80), limit)
    assert gap.gap > 0.5
    assert gap.matched == pytest.approx(renaming_gap(now, base, alive(80), limit).matched)
    assert renaming_gap(now, base, alive(80), limit).gap == pytest.approx(0, abs=1e-12)
    assert gap.aligned == pytest.approx(np.mean((now[order] * base).sum(1)))


def test_only_alive_latents_are_matched() -> None:
    base = directions(20)
    found = match(nudged(base), base, alive(20, 3, 4), alive(20, 4, 11), EVERY)
    assert len(found.now) == 18
    assert not {3, 4} & set(found.now.tolist())
    assert not {4, 11} & set(found.base.tolist())
    pairs = dict(zip(found.now.tolist(), found.base.tolist(), strict=True))
    assert all(pairs[i] == i for i in range(20) if i not in (3, 4, 11))
    assert pairs[11] == 3


def test_an_opposite_direction_is_another_one() -> None:
    base = directions(4)
    assert match(-base[:1], base[:1], alive(1), alive(1), EVERY).mean == pytest.approx(-1)


def test_norms_do_not_matter() -> None:
    base, sizes = directions(9), np.arange(1.0, 10.0)[:, None]
    now = nudged(base)
    assert match(now * sizes, base * 3, alive(9), alive(9), EVERY).mean == pytest.approx(
        match(now, base, alive(9), alive(9), EVERY).mean
    )


def test_the_greedy_matching_is_one_to_one_complete_and_close_to_the_best() -> None:
    now, base = directions(300, 8), directions(260, 8, seed=5)
    greedy, best = (match(now, base, alive(300), alive(260), limit) for limit in (10, EVERY))
    assert not greedy.exact
    assert len(greedy.base) == 260
    assert len(set(greedy.base.tolist())) == len(set(greedy.now.tolist())) == 260
    assert 0.85 * best.cosine.sum() < greedy.cosine.sum() <= best.cosine.sum() + 1e-9


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    now, base = directions(50), directions(40, seed=1)
    before = nearest(now, base, 5)
    monkeypatch.setattr(matching, "BLOCK_ROWS", 7)
    for one, other in zip(nearest(now, base, 5), before, strict=True):
        np.testing.assert_allclose(one, other)


def test_the_nearest_are_those_with_the_largest_products() -> None:
    now, base = directions(30), directions(40, seed=1)
    rows, columns, cosines = nearest(now, base, 5)
    products = now @ base.T
    for row in range(30):
        assert set(columns[rows == row].tolist()) == set(np.argsort(-products[row])[:5].tolist())
    np.testing.assert_allclose(cosines, products[rows, columns])
    assert len(nearest(now, base[:3], 5)[0]) == 90
    assert len(nearest(now, base[:0], 5)[0]) == 0
    assert len(nearest(now[:0], base, 5)[0]) == 0


def test_nothing_alive_gives_no_number() -> None:
    base, nobody = directions(4), np.zeros(4, bool)
    assert np.isnan(match(base, base, nobody, alive(4), EVERY).mean)
    assert np.isnan(renaming_gap(base, base, nobody, EVERY).gap)


def test_bins_hold_equally_many_and_equal_densities_share_one() -> None:
    density = np.random.default_rng(0).permutation(np.arange(1.0, 101.0))
    assert np.bincount(density_bins(density, 10)).tolist() == [10] * 10
    assert density_bins(np.array([0.0, 0.0, 0.0, 0.0, 1.0]), 2).tolist() == [0, 0, 0, 0, 1]
    assert (np.diff(density_bins(np.sort(density), 4)) >= 0).all()


def test_excess_and_p_are_those_of_the_bin() -> None:
    turned, null = np.array([0.5, 0.1, 0.9, 0.3, 0.7]), np.array([0.5, 0.2, 0.4, 0.3, 0.1])
    bins = np.array([0, 0, 0, 1, 1])
    usable, usable_null = alive(5, 1), alive(5, 3)
    found = cosine_excess(turned, null, bins, usable, usable_null)
    like = np.array([0.5, 0.2, 0.4])
    np.testing.assert_allclose(found.excess[[0, 2, 3, 4]], [0.5 - like.mean(), 0.9 - like.mean(), 0.3 - 0.1, 0.7 - 0.1])
    np.testing.assert_allclose(found.p[[0, 2, 3, 4]], [2 / 4, 1 / 4, 1 / 2, 1 / 2])
    assert found.n_bin.tolist() == [3, 0, 3, 1, 1]
    assert np.isnan(found.excess[1])
    assert np.isnan(found.p[1])
    alone = cosine_excess(turned, null, bins, usable, np.zeros(5, bool))
    assert np.isnan(alone.excess).all()
    assert (alone.p[usable] == 1).all()


def test_drift_like_that_of_the_null_has_uniform_p_though_rare_latents_turn_more() -> None:
    draw, density = np.random.default_rng(0), np.random.default_rng(1).random(4000)
    turned, null = (draw.gamma(2.0, 0.05, size=4000) / (0.1 + density) for _ in range(2))
    every = np.ones(4000, bool)
    found = cosine_excess(turned, null, density_bins(density, 40), every, every)
    assert stats.kstest(found.p, "uniform").statistic < 0.05
    assert abs(found.excess.mean()) < 0.01
    rare = density < 0.1
    assert np.mean(found.p[rare] < 0.05) == pytest.approx(0.05, abs=0.03)
    farther = turned + np.where(np.arange(4000) < 40, 3.0, 0.0)
    planted = cosine_excess(farther, null, density_bins(density, 40), every, every)
    assert (planted.p[:40] <= 1 / 50).all()
    assert (planted.excess[:40] > 2).all()


def test_a_planted_rotation_has_the_excess_of_its_angle() -> None:
    base, angle = directions(600, 400), 0.6
    null, now = nudged(base, 0.01, seed=1), nudged(base, 0.01, seed=2)
    across = unit(now - (now * base).sum(1, keepdims=True) * base)
    now[:30] = np.cos(angle) * base[:30] + np.sin(angle) * across[:30]
    turned, turned_null = 1 - (now * base).sum(1), 1 - (null * base).sum(1)
    found = cosine_excess(turned, turned_null, density_bins(np.arange(600.0)[::-1], 5), alive(600), alive(600))
    np.testing.assert_allclose(found.excess[:30], 1 - np.cos(angle), atol=0.03)
    assert (found.p[:30] == 1 / 121).all()
    assert np.abs(found.excess[30:]).max() < 0.02
