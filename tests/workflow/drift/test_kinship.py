"""Which latents point alike: read off one float32 product, they are those of the whole product in float64."""

import numpy as np
import pytest

from workflow.drift import kinship as module
from workflow.drift.kinship import kinship, mmcs
from workflow.drift.matching import unit


def directions(latents: int, d_model: int = 12, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(latents, d_model)))


def mask(latents: int, *left_out: int) -> np.ndarray:
    found = np.ones(latents, bool)
    found[list(left_out)] = False
    return found


@pytest.fixture(params=[7, 1024], ids=["blocks", "whole"])
def block_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(module, "BLOCK_ROWS", request.param)
    return request.param


@pytest.mark.usefixtures("block_rows")
@pytest.mark.parametrize("most", [1, 3, 50])
def test_pairs_and_nearest_are_those_of_the_whole_product(most: int) -> None:
    now, base = directions(50), directions(40, seed=1)
    alive_now, alive_base, usable = mask(50, 4, 9), mask(40, 2, 39), mask(50, 4, 9, 20)
    found = kinship(now, base, alive_now, alive_base, usable_now=usable, min_cosine=0.3, most=most)
    products = now @ base.T
    np.testing.assert_allclose(found.ancestor_cosine, products[:, alive_base].max(1), rtol=0, atol=1e-14)
    np.testing.assert_allclose(found.descendant_cosine, products[alive_now].max(0), rtol=0, atol=1e-14)
    products[~usable], products[:, ~alive_base] = -1, -1
    by_row, by_column = ((-products).argsort(axis).argsort(axis) < most for axis in (1, 0))
    expected = np.argwhere((products > 0.3) & (by_row | by_column))
    assert len(expected) > 20
    assert np.array_equal(found.candidates.pairs, expected)
    np.testing.assert_allclose(found.candidates.cosine, products[tuple(expected.T)], rtol=0, atol=1e-14)


@pytest.mark.usefixtures("block_rows")
def test_a_cosine_is_compared_with_the_bound_in_float64() -> None:
    """Both pairs round to the same float32."""
    bound, angle = 0.7, np.arccos(0.7 + 1e-10)
    now = np.array([[np.cos(angle), np.sin(angle)], [np.cos(angle + 3e-10), np.sin(angle + 3e-10)]])
    found = kinship(now, np.array([[1.0, 0.0]]), mask(2), mask(1), min_cosine=bound, most=2)
    assert found.candidates.pairs.tolist() == [[0, 0]]


@pytest.mark.usefixtures("block_rows")
def test_among_equals_any_is_the_nearest_and_the_cosine_is_theirs() -> None:
    """Twins to float32 rounding: whoever is taken, the cosine is the largest to that rounding."""
    base = directions(30)
    now = np.concatenate([base, unit(base + 1e-9)])
    found = kinship(now, base, mask(60), mask(30), min_cosine=0.9, most=4)
    np.testing.assert_allclose(found.descendant_cosine, 1, rtol=0, atol=1e-7)
    assert found.candidates.pairs.tolist() == [[latent, latent % 30] for latent in range(60)]


def test_no_more_pairs_are_held_than_the_nearest_of_each_latent() -> None:
    """Latents that all point one way would be related every one to every other."""
    same = np.tile(directions(1), (200, 1))
    assert len(kinship(same, same, mask(200), mask(200), min_cosine=0.5, most=3).candidates.now) <= 2 * 3 * 200


def test_opposite_directions_are_two() -> None:
    base = directions(3)
    assert kinship(-base[:1], base[:1], mask(1), mask(1)).ancestor_cosine == pytest.approx([-1])
    assert len(kinship(-base, base, mask(3), mask(3), min_cosine=0.9, most=1).candidates.now) == 0


def test_mmcs_does_not_depend_on_the_order_of_latents() -> None:
    base, order = directions(80), np.random.default_rng(3).permutation(80)
    now = unit(base + 0.1 * directions(80, seed=7))
    plain, renamed = (kinship(rows, base, mask(80), mask(80)).ancestor_cosine for rows in (now, now[order]))
    assert mmcs(plain, mask(80)) == pytest.approx(mmcs(renamed, mask(80)))
    assert mmcs(plain, mask(80)) == pytest.approx((now @ base.T).max(1).mean())


def test_nobody_alive_is_nobodys_relative() -> None:
    base, nobody = directions(4), np.zeros(4, bool)
    found = kinship(base, base, nobody, nobody, min_cosine=0.5, most=2)
    assert found.ancestor_cosine.tolist() == found.descendant_cosine.tolist() == [-1.0] * 4
    assert len(found.candidates.now) == 0
    assert np.isnan(mmcs(found.ancestor_cosine, nobody))
    assert np.isnan(mmcs(found.ancestor_cosine[nobody], mask(4)))
