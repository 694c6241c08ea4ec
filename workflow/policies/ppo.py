"""The arithmetic of PPO: advantages, and the loss of one mini-batch."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from workflow.config.policies import PpoConfig


class ValueHead(nn.Module):
    """A linear baseline on the state before a token: expected return = w · h/‖h‖ + b, both zero at the start.

    The state is scaled to norm 1, so that one learning rate fits models of every width.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(d_model))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, states: Tensor) -> Tensor:
        """(…, d_model) → (…)"""
        return nn.functional.normalize(states.float(), dim=-1) @ self.weight + self.bias


class Loss(NamedTuple):
    """The loss of a mini-batch and what is reported of it."""

    total: Tensor
    policy: Tensor
    value: Tensor
    clip_share: Tensor
    """Share of tokens whose probability ratio lay outside 1 ± ε."""


def masked_mean(values: Tensor, written: Tensor) -> Tensor:
    """Mean over the written tokens of all rows."""
    return (values * written).sum() / written.sum()


def token_rewards(rewards: Tensor, logprobs: Tensor, reference: Tensor, written: Tensor, settings: PpoConfig) -> Tensor:
    """(row, token): the answer's reward on the last token, less the KL penalty of each token if it belongs to the reward.

    Source: Ziegler et al. 2019, eq. 2.
    """
    penalty = settings.kl_coef if settings.kl_in == "reward" else 0.0
    given = -penalty * (logprobs - reference) * written
    last = written.long().sum(-1, keepdim=True) - 1
    return given.scatter_add(-1, last, rewards.unsqueeze(-1).to(given))


def advantages(rewards: Tensor, values: Tensor, written: Tensor, gamma: float, gae_lambda: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates and returns, (row, token). Source: Schulman et al. 2016, eq. 16."""
    values = values * written
    found, running = torch.zeros_like(values), torch.zeros_like(values[:, 0])
    for step in reversed(range(values.shape[1])):
        after = values[:, step + 1] if step + 1 < values.shape[1] else torch.zeros_like(running)
        delta = rewards[:, step] + gamma * after - values[:, step]
        running = (delta + gamma * gae_lambda * running) * written[:, step]
        found[:, step] = running
    return found, found + values


def whitened(values: Tensor, written: Tensor) -> Tensor:
    """Mean 0 and variance 1 over all written tokens of a batch."""
    centred = values - masked_mean(values, written)
    return centred / (masked_mean(centred**2, written).sqrt() + 1e-6)


def ppo_loss(
    logprobs: Tensor, entropy: Tensor, predicted: Tensor, old: Tensor, reference: Tensor, advantage: Tensor, returns: Tensor,
    written: Tensor, settings: PpoConfig,
) -> Loss:  # fmt: skip
    """Clipped policy loss, squared value error, entropy bonus and, if it belongs to the loss, the KL term; means over tokens.

    All arguments are (row, token). Source: Schulman et al. 2017, eq. 7 and 9; KL estimator k3: Schulman 2020.
    """
    ratio = (logprobs - old).exp()
    clipped = ratio.clamp(1 - settings.clip_ratio, 1 + settings.clip_ratio)
    policy = masked_mean(torch.maximum(-advantage * ratio, -advantage * clipped), written)
    value = masked_mean((predicted - returns) ** 2, written)
    total = policy + settings.value_coef * value
    if settings.entropy_coef:
        total = total - settings.entropy_coef * masked_mean(entropy, written)
    if settings.kl_in == "loss" and settings.kl_coef:
        gap = reference - logprobs
        total = total + settings.kl_coef * masked_mean(gap.exp() - gap - 1, written)
    outside = (ratio.detach() - 1).abs() > settings.clip_ratio
    return Loss(total, policy.detach(), value.detach(), masked_mean(outside.float(), written))
