"""Sign flips confirm what the t-test lists, are exact on small cases, and refuse numbers of flips that could confirm nothing."""

import itertools

import numpy as np
import pytest
from planted_firings import clustered_pair, firings_of
from scipy import stats

from workflow.config.section import ConfigError
from workflow.latent_tests import rate_tests
from workflow.prompt_firings import PairedFirings
from workflow.sign_flips import confirm, flips_needed, sign_flip_p

RATES = 0.3 * np.arange(1, 401) ** -0.6


def few(seed: int = 0, prompts: int = 10) -> tuple[PairedFirings, np.ndarray]:
    """A pair on few prompts, and its rate differences [prompt, latent]."""
    draw = np.random.default_rng(seed)
    before, after = draw.binomial(20, [0.2, 0.3, 0.2], size=(2, prompts, 3))
    after[:, 1] = before[:, 1]
    after[:, 2] += 3
    rows = np.full(prompts, 30)
    return PairedFirings(firings_of(before, rows), firings_of(after, rows)), (after - before) / 30


def test_p_agrees_with_all_flips_enumerated() -> None:
    pair, differences = few()
    signs = np.array(list(itertools.product([-1, 1], repeat=10)))
    observed = np.abs(differences.sum(0))
    exact = (np.abs(signs @ differences) >= observed - 1e-9).mean(0)
    p = sign_flip_p(pair, np.arange(3), flips=20_000, seed=0)
    np.testing.assert_allclose(p, exact, atol=4 * np.sqrt(0.25 / 20_000))
    assert p[1] == 1
    assert exact[2] < 0.1


def test_seed_and_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    pair, _ = few()
    once = sign_flip_p(pair, np.arange(3), flips=500, seed=1)
    assert np.array_equal(once, sign_flip_p(pair, np.arange(3), flips=500, seed=1))
    assert not np.array_equal(once, sign_flip_p(pair, np.arange(3), flips=500, seed=2))
    assert (once >= 1 / 501).all()
    monkeypatch.setattr("workflow.sign_flips.CHUNK_VALUES", 80)
    np.testing.assert_allclose(sign_flip_p(pair, np.arange(3), flips=20_000, seed=1), once, atol=0.08)


def test_the_resolution_that_a_correction_needs() -> None:
    assert flips_needed(7168, 1, 0.05) == 143_359
    assert flips_needed(7168, 100, 0.05) == 1433
    assert flips_needed(10, 10, 0.05) == 19
    assert flips_needed(7168, 0, 0.05) == 143_359
    for tested, listed, q in itertools.product([1, 17, 7168], [1, 5], [0.05, 0.1]):
        needed = flips_needed(tested, listed, q)
        assert 1 / (needed + 1) <= q * listed / tested * (1 + 1e-9)
        assert needed == 1 or 1 / needed > q * listed / tested


def test_flips_that_could_confirm_nothing_are_refused() -> None:
    pair, _ = few()
    with pytest.raises(ConfigError, match=r"at least 143359 to confirm 1 of 7168 latents at q = 0.05; got 9999, .* 0\.0001\. Ask"):
        confirm(pair, np.array([2]), tested=7168, q=0.05, flips=9999, seed=0)


def test_planted_changes_are_confirmed_and_noise_is_not() -> None:
    factors = np.ones(400)
    factors[10:40] = 2.0
    pair = clustered_pair(0, RATES, factors)
    tests = rate_tests(pair, min_firings=20, min_prompts=10, margin=0.2, confidence=0.95)
    listed = np.flatnonzero(tests.q <= 0.05)
    found = confirm(pair, listed, tested=int(tests.tested.sum()), q=0.05, flips=None, seed=0)
    assert found.flips == 10 * flips_needed(int(tests.tested.sum()), len(listed), 0.05)
    assert found.confirmed[factors[listed] > 1].mean() > 0.95
    assert found.threshold == pytest.approx(0.05 * len(listed) / tests.tested.sum())
    noise = np.arange(100, 130)
    assert confirm(pair, noise, tested=400, q=0.05, flips=None, seed=0).confirmed.sum() <= 2


def test_p_is_uniform_without_change() -> None:
    p = sign_flip_p(clustered_pair(5, np.full(500, 0.2)), np.arange(500), flips=999, seed=0)
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_nothing_listed_is_nothing_confirmed() -> None:
    pair, _ = few()
    found = confirm(pair, np.array([], dtype=np.int64), tested=3, q=0.05, flips=None, seed=0)
    assert len(found.p) == len(found.confirmed) == 0


def test_a_latent_that_changed_nowhere_has_p_one() -> None:
    same = np.full((5, 1), 2)
    pair = PairedFirings(firings_of(same, np.full(5, 9)), firings_of(same, np.full(5, 9)))
    assert sign_flip_p(pair, np.array([0]), flips=50, seed=0).tolist() == [1.0]
