"""Births and deaths: every condition counts, hysteresis holds, and what is planted is found from sums over rows."""

import numpy as np
import pytest
import torch

from sae_core.kernels.codes import Codes, equally_many
from sae_core.kernels.sparse import decode
from sae_core.metrics.latent_scaling import scaling, scaling_sums
from workflow.config.section import ConfigError
from workflow.drift.births import AliveRule, alive_states, births, deaths, excess
from workflow.drift.kinship import kinship

RULE = AliveRule(20, 10, 10, 5)


def test_thresholds_of_being_alive_have_hysteresis() -> None:
    firings = np.array([[20, 19, 20, 25], [12, 12, 12, 3], [12, 20, 9, 30]])
    prompts = np.array([[10, 10, 9, 10], [5, 5, 5, 3], [5, 10, 5, 10]])
    alive = alive_states(firings, prompts, np.zeros((3, 4), bool), RULE)
    assert alive.tolist() == [[True, False, False, True], [True, False, False, False], [True, True, False, True]]


def test_a_reinitialised_latent_inherits_no_life() -> None:
    firings, prompts = np.array([[30], [15], [15]]), np.array([[15], [8], [8]])
    assert alive_states(firings, prompts, np.array([[False], [True], [True]]), RULE).ravel().tolist() == [True, False, False]


def test_staying_alive_may_not_be_harder_than_becoming_so() -> None:
    with pytest.raises(ConfigError, match=r"20 firings over 10 prompts; got 21 over 5\. Lower the latter"):
        alive_states(np.zeros((2, 1)), np.zeros((2, 1)), np.zeros((2, 1), bool), RULE._replace(keep_firings=21))


def test_each_condition_alone_prevents_a_birth() -> None:
    found = births(
        alive_before=np.array([False, True, False, False, False, False, False]),
        alive_now=np.array([True, True, True, True, True, True, False]),
        own_cosine=np.full(7, 0.95),
        ancestor_cosine=np.array([0.2, 0.2, 0.9, 0.2, 0.2, 0.2, 0.2]),
        reinitialised=np.array([False, False, False, True, False, False, False]),
        unexplained_share=np.array([0.9, 0.9, 0.9, 0.9, 0.1, np.nan, 0.9]),
        max_cosine=0.7,
        min_unexplained=0.5,
    )
    assert found.born.tolist() == [True] + [False] * 6
    assert found.remaining() == (5, 4, 3, 1)


def test_an_index_that_turned_away_is_another_latent() -> None:
    alive, cosine = np.ones(3, bool), np.array([0.95, 0.3, 0.3])
    conditions = {
        "alive_before": alive, "alive_now": alive, "own_cosine": cosine, "reinitialised": np.array([False, False, True]),
        "unexplained_share": np.ones(3), "max_cosine": 0.7, "min_unexplained": 0.5,
    }  # fmt: skip
    assert births(ancestor_cosine=cosine, **conditions).born.tolist() == [False, True, False]
    assert deaths(descendant_cosine=cosine, **conditions).born.tolist() == [False, True, False]
    relative = births(ancestor_cosine=np.full(3, 0.9), **conditions)
    assert relative.appeared.tolist() == [False, True, True]
    assert not relative.born.any(), "it took the place of another that was alive"


def test_deaths_are_births_backwards() -> None:
    died = deaths(
        alive_before=np.array([True, True, False]),
        alive_now=np.array([False, True, True]),
        own_cosine=np.ones(3),
        descendant_cosine=np.array([0.1, 0.1, 0.1]),
        reinitialised=np.zeros(3, bool),
        unexplained_share=np.ones(3),
        max_cosine=0.7,
        min_unexplained=0.5,
    )
    assert died.born.tolist() == [True, False, False]


def test_the_count_of_the_null_chain_is_subtracted() -> None:
    assert excess(np.array([True, True, False]), np.array([True, True, True])) == (2, 3, -1)


D, LATENTS, K, ROWS = 32, 20, 3, 4000


def encoded(draw: torch.Generator, active: list[int]) -> Codes:
    """Codes of rows on which three of the given latents are active."""
    chosen = torch.stack([torch.randperm(len(active), generator=draw)[:K] for _ in range(ROWS)])
    return equally_many(torch.tensor(active)[chosen], 1 + torch.rand(ROWS, K, generator=draw))


def planted() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, torch.Tensor]:
    """A world in which 16 and 17 are born, 18 is a re-initialised copy of nothing, 19 a sum of two directions that S_0 knows.

    Latents 0–13 are those of the base dictionary, 14 and 15 fell silent.
    """
    draw = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(D, D, generator=draw))[0][:LATENTS].contiguous()
    base, now = directions.clone(), directions.clone()
    base[16:] = torch.nn.functional.normalize(torch.randn(4, D, generator=draw), dim=1)
    now[19] = torch.nn.functional.normalize(directions[0] + directions[1], dim=0)
    codes = encoded(draw, [*range(14), 16, 17, 18, 19])
    x = decode(codes, now) + 2
    known = now.clone()
    known[16:19] = 0
    share = scaling(scaling_sums(codes, now, x, decode(codes, known) + 2, x.mean(0)), now).unexplained
    before, after = np.zeros(LATENTS, bool), np.zeros(LATENTS, bool)
    before[:16], after[:14], after[16:] = True, True, True
    return base.numpy(), now.numpy(), before, after, share.numpy(), directions


def test_planted_births_are_found_and_nothing_else() -> None:
    base, now, before, after, share, _ = planted()
    reinitialised = np.zeros(LATENTS, bool)
    reinitialised[18] = True
    conditions = {
        "alive_before": before, "alive_now": after, "own_cosine": (base * now).sum(1),
        "ancestor_cosine": kinship(now, base, after, before).ancestor_cosine,
        "unexplained_share": share, "max_cosine": 0.8, "min_unexplained": 0.5,
    }  # fmt: skip
    assert np.flatnonzero(births(reinitialised=reinitialised, **conditions).born).tolist() == [16, 17]
    unaware = births(reinitialised=np.zeros(LATENTS, bool), **conditions)
    assert np.flatnonzero(unaware.born).tolist() == [16, 17, 18]
    assert np.flatnonzero(unaware.appeared).tolist() == [16, 17, 18, 19]
    assert unaware.unrelated[19]
    assert share[19] < 0.2


def test_planted_deaths_are_found_and_nothing_else() -> None:
    draw = torch.Generator().manual_seed(0)
    base, now, before, after, _, _ = planted()
    codes = encoded(draw, list(range(16)))
    x = decode(codes, torch.from_numpy(base))
    known = torch.from_numpy(now).clone()
    known[14:16] = 0
    share = scaling(scaling_sums(codes, torch.from_numpy(base), x, decode(codes, known), x.mean(0)), torch.from_numpy(base))
    died = deaths(
        alive_before=before, alive_now=after, own_cosine=(base * now).sum(1),
        descendant_cosine=kinship(now, base, after, before).descendant_cosine, max_cosine=0.8,
        reinitialised=np.zeros(LATENTS, bool), unexplained_share=share.unexplained.numpy(), min_unexplained=0.5,
    )  # fmt: skip
    assert np.flatnonzero(died.born).tolist() == [14, 15]
