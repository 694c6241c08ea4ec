"""Which latents are chosen, and that changing a latent changes its own contribution and nothing else."""

import numpy as np
import pytest
import torch
from small_saes import D_MODEL, D_SAE, configs, fresh, planted_rows

from sae_core.models.sae import SAE
from workflow.config.section import ConfigError
from workflow.interventions.acting import Encoder, drive_latent, set_latent, transplant
from workflow.interventions.latents import Chosen, Firing, choose_latents, excess_turns

N = 200
RATES = np.geomspace(0.001, 0.3, N)


def firing(rate: np.ndarray = RATES, alive: np.ndarray | None = None) -> Firing:
    return Firing(rate, rate, np.ones(N, bool) if alive is None else alive)


def chosen(turn: np.ndarray, null_turn: np.ndarray, alive: np.ndarray | None = None, **changes: int) -> dict[str, list[Chosen]]:
    settings = {"latents": 3, "draws": 4, "seed": 0} | changes
    found = choose_latents(
        real=firing(alive=alive), null=firing(), turn=turn, null_turn=null_turn, density=RATES, **settings
    )  # fmt: skip
    return {group: [one for one in found if one.group == group] for group in ("drifted", "random", "null")}


def test_the_latents_that_turned_beyond_the_null_chain_are_found() -> None:
    null_turn = 0.5 - 0.4 * np.arange(N) / N  # rare latents turn more under refit
    turn = null_turn.copy()
    turn[[150, 20, 90]] += (0.3, 0.2, 0.1)
    found = chosen(turn, null_turn)
    assert [one.latent for one in found["drifted"]] == [150, 20, 90]
    assert np.argsort(-turn)[:3].tolist() != [150, 20, 90], "without the match by density others would come first"
    assert found["drifted"][0].excess == pytest.approx(0.3, abs=0.03)


def test_dead_and_reinitialised_latents_are_never_chosen() -> None:
    null_turn, turn, alive = np.full(N, 0.1), np.full(N, 0.1), np.ones(N, bool)
    turn[[7, 8, 9]] = 0.9
    turn[8], alive[7] = np.nan, False
    found = chosen(turn, null_turn, alive, latents=N, draws=0)["drifted"]
    assert found[0].latent == 9
    assert {7, 8}.isdisjoint(one.latent for one in found)
    assert len(found) == N - 2


def test_random_latents_fire_as_often_and_none_comes_twice() -> None:
    turn = np.full(N, 0.1)
    turn[[10, 100, 190]] = 0.5
    found = chosen(turn, np.full(N, 0.1))
    drifted, random = found["drifted"], found["random"]
    assert len({one.latent for one in (*drifted, *random)}) == 3 + 3 * 4
    for place, one in enumerate(random):
        assert abs(np.log(one.rate / drifted[place // 4].rate)) < 0.4
        assert one.draw == place % 4
    again, other = (chosen(turn, np.full(N, 0.1), seed=seed)["random"] for seed in (0, 1))
    assert again == random
    assert other != random


def test_where_no_latent_is_alive_the_check_is_refused() -> None:
    with pytest.raises(ConfigError, match="chain real must be alive"):
        chosen(np.full(N, 0.1), np.full(N, 0.1), np.zeros(N, bool))


def test_the_excess_of_the_null_chain_is_zero_on_average() -> None:
    turn = np.random.default_rng(0).gamma(2, 0.1, N)
    excess = excess_turns(turn, turn, RATES)
    assert excess.reshape(10, 20).mean(1) == pytest.approx(np.zeros(10), abs=1e-12)


CONVENTIONS = [{"normalise": "scale"}, {"normalise": "layer_norm"}, {"normalise": "row_norm", "pre_bias": "decoder"}]
CASES = [
    pytest.param(fresh(config), id=f"{name}-{conventions['normalise']}")
    for conventions in CONVENTIONS
    for name, config in configs(**conventions)
]


@pytest.mark.parametrize("sae", CASES)
@torch.no_grad()
def test_silencing_a_latent_takes_its_part_of_the_reconstruction_away(sae: SAE) -> None:
    rows = planted_rows(50, seed=1)
    codes = sae.encode(rows).active()
    latent = int(codes.latents.mode().values)
    without = codes.only(codes.latents != latent)
    found = set_latent(Encoder(sae), latent, 0.0)(rows)
    assert len(without.values) < len(codes.values)
    torch.testing.assert_close(found - rows, sae.decode(without, rows) - sae.decode(codes, rows), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("sae", CASES)
@torch.no_grad()
def test_driving_a_latent_adds_what_setting_it_higher_adds(sae: SAE) -> None:
    rows, encoder = planted_rows(50, seed=1), Encoder(sae)
    zeroed, at_two = (set_latent(encoder, 3, value)(rows) for value in (0.0, 2.0))
    torch.testing.assert_close(drive_latent(encoder, 3, 2.0)(rows) - rows, at_two - zeroed, rtol=1e-3, atol=1e-4)
    assert (at_two - zeroed).norm() > 1


def test_a_silent_latent_hands_the_same_rows_back() -> None:
    sae = fresh(next(configs())[1])
    rows = planted_rows(2, seed=1)
    silent = sorted(set(range(D_SAE)) - set(sae.encode(rows).active().latents.tolist()))[0]
    assert set_latent(Encoder(sae), silent, 0.0)(rows) is rows


@pytest.mark.parametrize("sae", CASES)
@torch.no_grad()
def test_a_transplant_of_all_latents_exchanges_the_decoders(sae: SAE) -> None:
    rows = planted_rows(50, seed=1)
    now = fresh(sae.config)
    now.W_dec.copy_(torch.nn.functional.normalize(now.W_dec + 0.3 * torch.randn(D_SAE, D_MODEL), dim=1))
    codes = sae.encode(rows)
    if sae.code_unit() is None:
        truth = rows + now.decode(codes, rows) - sae.decode(codes, rows)
        found = transplant(Encoder(sae), now, list(range(D_SAE)))(rows)
        torch.testing.assert_close(found, truth, rtol=1e-3, atol=1e-3)
        assert (found - rows).norm() > 1
    assert torch.equal(transplant(Encoder(sae), sae, list(range(D_SAE)))(rows), rows), "the same directions change nothing"
