"""Recovery is measured as it says, and SAEs of every kind find planted directions."""

import pytest
import torch

from benchmarks.bench_recovery import Run, compare, lines_of
from benchmarks.planted import Planted, Recovery, mean_max_cosine, recovery_of
from benchmarks.recovery import KINDS, Plan, data_of, trained_by_us


def directions(count: int, width: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_a_dictionary_recovers_itself_in_any_order_sign_and_length() -> None:
    truth = directions(12)
    disguised = truth[torch.randperm(12)] * torch.linspace(-2, 3, 12).unsqueeze(1)
    assert mean_max_cosine(disguised, truth) == pytest.approx(1.0)


def test_no_direction_is_recovered_twice_by_one_latent() -> None:
    truth = torch.eye(4)
    copies = truth[:1].expand(4, 4)
    assert mean_max_cosine(copies, truth) == pytest.approx(0.25)


def test_recovery_counts_active_latents_and_error_around_the_mean() -> None:
    x = directions(50) + 3
    codes = (torch.arange(50 * 8).view(50, 8) % 4 == 0).float()
    found = recovery_of(directions(8), codes, x.mean(0).expand_as(x), x, directions(8))
    assert found == pytest.approx(Recovery(1.0, 1.0, 2.0))


def test_planted_rows_have_elements_of_mean_square_one_and_a_seed_of_their_own() -> None:
    one, again, other = (Planted(24, 60, 4, seed) for seed in (1, 1, 2))
    rows = one.rows(4096)
    assert float(rows.square().mean()) == pytest.approx(1.0, rel=0.02)
    assert torch.equal(rows, again.rows(4096))
    assert not torch.equal(one.directions, other.directions)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_recovers_planted_directions(kind: str) -> None:
    plan = Plan(d_model=16, d_sae=24, k=2, batch=128, updates=400, held_out=1024)
    coef = {"relu": 1.0, "jumprelu": 0.3, "gated": 2.0}.get(kind, 0.0)
    data = data_of(plan, 1)
    found = trained_by_us(kind, plan, data, coef, seed=1)
    chance = mean_max_cosine(directions(plan.d_sae, plan.d_model, 3), data.directions)
    assert found.mcc > 0.9 > chance + 0.2
    assert found.l0 < 8
    assert found.nmse < 0.5


def test_kinds_are_compared_at_the_coefficient_at_which_each_recovers_most() -> None:
    mccs = {("sae_core", 1.0): 0.7, ("sae_core", 2.0): 0.9, ("sae-lens", 1.0): 0.8, ("sae-lens", 2.0): 0.6}
    runs = [Run("relu", *key, seed, Recovery(mcc + 0.01 * seed, 0.1, 4.0)) for key, mcc in mccs.items() for seed in (-1, 1)]
    lines = lines_of(runs)
    assert [(line["trainer"], line["sparsity_coef"]) for line in lines if line["best"]] == [("sae_core", 2.0), ("sae-lens", 1.0)]
    assert lines[0] == {
        "kind": "relu", "trainer": "sae_core", "sparsity_coef": 1.0, "mcc": "0.7000", "mcc_low": "0.6900", "mcc_high": "0.7100",
        "nmse": "0.1000", "l0": "4.00", "seeds": 2, "best": False,
    }  # fmt: skip
    assert compare(lines) == {"relu": "at least as much: 0.9000 beside 0.8000"}
    worse = [run._replace(recovery=run.recovery._replace(mcc=0.1)) if run.trainer == "sae_core" else run for run in runs]
    assert compare(lines_of(worse))["relu"].startswith("LESS")
    assert compare([line for line in lines if line["trainer"] == "sae_core"])["relu"].startswith("not compared")
