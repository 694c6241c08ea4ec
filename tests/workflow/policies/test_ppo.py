"""PPO's arithmetic against sums written out by hand."""

import math

import pytest
import torch

from workflow.config.policies import PpoConfig
from workflow.policies.ppo import ValueHead, advantages, masked_mean, ppo_loss, token_rewards, whitened

WRITTEN = torch.tensor([[True, True, True], [True, False, False]])


def rows(*values: list[float]) -> torch.Tensor:
    return torch.tensor(values)


def test_the_answers_reward_stands_on_the_last_token_and_the_penalty_on_each() -> None:
    drawn, start = rows([-1.0, -2.0, -3.0], [-1.0, 0.0, 0.0]), rows([-1.5, -2.0, -2.0], [-2.0, 9.0, 9.0])
    settings = PpoConfig(kl_coef=0.1)
    given = token_rewards(torch.tensor([1.0, 0.5]), drawn, start, WRITTEN, settings)
    torch.testing.assert_close(given, rows([-0.05, 0.0, 1.1], [0.4, 0.0, 0.0]))
    in_loss = token_rewards(torch.tensor([1.0, 0.5]), drawn, start, WRITTEN, PpoConfig(kl_coef=0.1, kl_in="loss"))
    torch.testing.assert_close(in_loss, rows([0.0, 0.0, 1.0], [0.5, 0.0, 0.0]))


def test_advantages_are_the_discounted_sums_of_temporal_differences() -> None:
    rewards, values = rows([0.1, 0.2, 1.0], [0.5, 9.0, 9.0]), rows([0.3, 0.6, 0.2], [0.1, 7.0, 7.0])
    gamma, lam = 0.9, 0.8
    deltas = [0.1 + gamma * 0.6 - 0.3, 0.2 + gamma * 0.2 - 0.6, 1.0 - 0.2]
    wanted = [sum((gamma * lam) ** (j - i) * deltas[j] for j in range(i, 3)) for i in range(3)]
    found, returns = advantages(rewards * WRITTEN, values, WRITTEN, gamma, lam)
    torch.testing.assert_close(found, rows(wanted, [0.4, 0.0, 0.0]))
    torch.testing.assert_close(returns[0], found[0] + values[0])


def test_with_lambda_and_gamma_1_returns_are_the_rewards_to_come() -> None:
    rewards = rows([0.1, 0.2, 1.0], [0.5, 0.0, 0.0])
    _, returns = advantages(rewards, torch.rand(2, 3, generator=torch.Generator().manual_seed(0)), WRITTEN, 1.0, 1.0)
    torch.testing.assert_close(returns * WRITTEN, rows([1.3, 1.2, 1.0], [0.5, 0.0, 0.0]))


def test_whitening_looks_at_written_tokens_alone() -> None:
    values = rows([1.0, 2.0, 3.0], [6.0, 1e6, -1e6])
    kept = whitened(values, WRITTEN)[WRITTEN]
    assert float(kept.mean()) == pytest.approx(0, abs=1e-6)
    assert float(kept.var(correction=0)) == pytest.approx(1, abs=1e-4)


def loss_of(settings: PpoConfig, logprobs: torch.Tensor, advantage: torch.Tensor, reference: torch.Tensor | None = None):
    zeros = torch.zeros_like(logprobs)
    written = torch.ones_like(logprobs, dtype=torch.bool)
    start = zeros if reference is None else reference
    return ppo_loss(logprobs, zeros + 0.5, zeros + 0.25, zeros, start, advantage, zeros + 1.0, written, settings)


def test_the_ratio_is_clipped_only_where_that_is_the_pessimistic_side() -> None:
    ratio, advantage = torch.tensor([[1.5, 1.5, 0.5, 0.5]]), torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    logprobs = ratio.log().requires_grad_()
    found = loss_of(PpoConfig(value_coef=0.0), logprobs, advantage)
    assert float(found.policy) == pytest.approx((-1.2 + 1.5 - 0.5 + 0.8) / 4)
    assert float(found.clip_share) == 1.0
    found.total.backward()
    torch.testing.assert_close(logprobs.grad, torch.tensor([[0.0, 1.5, -0.5, 0.0]]) / 4)


def test_value_entropy_and_kl_enter_with_their_weights() -> None:
    logprobs, none = torch.full((1, 4), 0.1), torch.zeros(1, 4)
    plain = loss_of(PpoConfig(value_coef=0.5), logprobs, none)
    assert float(plain.total) == pytest.approx(0.5 * 0.75**2)
    bonus = loss_of(PpoConfig(value_coef=0.5, entropy_coef=0.2), logprobs, none)
    assert float(bonus.total - plain.total) == pytest.approx(-0.2 * 0.5)
    gap = -0.3 - 0.1
    kl = loss_of(PpoConfig(value_coef=0.5, kl_coef=2.0, kl_in="loss"), logprobs, none, torch.full((1, 4), -0.3))
    assert float(kl.total - plain.total) == pytest.approx(2.0 * (math.exp(gap) - gap - 1), rel=1e-4)


def test_the_value_head_expects_nothing_at_first_and_can_learn() -> None:
    states = torch.randn(64, 16, generator=torch.Generator().manual_seed(1)) * 50
    wanted = torch.nn.functional.normalize(states, dim=-1)[:, 0]
    head = ValueHead(16)
    assert float(head(states).detach().abs().max()) == 0
    optimiser = torch.optim.Adam(head.parameters(), lr=0.05)
    for _ in range(300):
        optimiser.zero_grad()
        ((head(states) - wanted) ** 2).mean().backward()
        optimiser.step()
    assert float(((head(states).detach() - wanted) ** 2).mean()) < 0.01 * float(wanted.var())


def test_means_count_written_tokens() -> None:
    assert float(masked_mean(rows([1.0, 2.0, 3.0], [6.0, 100.0, 100.0]), WRITTEN)) == 3.0
