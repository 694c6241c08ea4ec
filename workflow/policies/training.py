"""The PPO loop of one stage: from the state of the stage before to the state of this one, update by update."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from workflow.config.policies import PpoConfig
from workflow.config.prompts import PromptsConfig
from workflow.decoding import random_stream
from workflow.formats.problems import Problem
from workflow.policies.learner import STATE, Learner
from workflow.policies.ppo import advantages, masked_mean, ppo_loss, token_rewards, whitened
from workflow.policies.rollout import Rollout, draw, roll_out
from workflow.policies.scoring import Texts, arrange, score
from workflow.progress import Progress

log = logging.getLogger(__name__)
SECONDS_BETWEEN_SAVES = 20.0


class CurveRow(NamedTuple):
    """One PPO update: its rollouts, written before it, and its optimiser steps."""

    update: int
    reward: float
    """Mean reward of the answers, without the KL term."""
    strict: float
    """Share right under the rule strict."""
    flexible: float
    """Share right under the rule flexible."""
    kl: float
    """KL to the start policy, nats per response, estimated from the drawn tokens (it may be negative by chance)."""
    entropy: float
    """Nats per response token."""
    response_tokens: float
    """Mean length."""
    finished: float
    """Share of answers that ended by themselves."""
    policy_loss: float
    value_loss: float
    clip_share: float
    """Share of tokens outside the clip range."""
    grad_norm: float
    """Of the policy's gradient, before clipping."""


class _Batch(NamedTuple):
    """What the optimiser steps of one update share; tensors are (row, token)."""

    rollout: Rollout
    old: Tensor
    reference: Tensor
    advantage: Tensor
    returns: Tensor
    written: Tensor


def train(
    learner: Learner,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    last_update: int,
    settings: PpoConfig,
    prompts: PromptsConfig,
    scratch: Path,
    seconds_between_saves: float = SECONDS_BETWEEN_SAVES,
) -> list[CurveRow]:
    """Do the updates up to `last_update` and return their curve.

    What an update does depends on the state before it, the seed and its number alone, so a job that was killed and goes on
    from the state in `scratch` ends with the same bytes (on a CPU with the same number of threads).
    """
    kept = scratch / STATE
    rows: list[CurveRow] = []
    if kept.exists():
        rows = [CurveRow(**row) for row in learner.load(kept)["curve"]]
        log.info("going on after update %d", learner.update)
    saved = time.monotonic()
    with Progress(last_update, "PPO", "updates", done=learner.update) as progress:
        while learner.update < last_update:
            row = one_update(learner, tokenizer, problems, settings, prompts)
            rows.append(row)
            log.info("update %d: %s", row.update, ", ".join(f"{name} {value:.3g}" for name, value in row._asdict().items()))
            if time.monotonic() - saved >= seconds_between_saves or learner.update == last_update:
                learner.save(kept, curve=[entry._asdict() for entry in rows])
                saved = time.monotonic()
            progress.advance(note=f"reward {row.reward:.2f}, KL {row.kl:.2f}")
    return rows


def one_update(
    learner: Learner,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    settings: PpoConfig,
    prompts: PromptsConfig,
) -> CurveRow:
    """Roll out one batch, then take the optimiser steps on it."""
    update = learner.update + 1
    model = learner.policy.merge()
    chosen = draw(problems, settings.batch, settings.seed, update)
    rollout = roll_out(model, tokenizer, chosen, learner.value, ("ppo", update), settings, prompts)
    batch = _prepare(learner, rollout, settings)
    steps = [
        _step(learner, batch, rows, settings) for epoch in range(settings.epochs) for rows in _minibatches(settings, update, epoch)
    ]
    learner.update = update
    policy, value, clipped, entropy, norm = (sum(column) / len(steps) for column in zip(*steps, strict=True))
    return CurveRow(
        update=update,
        reward=float(rollout.rewards.mean()),
        strict=rollout.strict,
        flexible=rollout.flexible,
        kl=float(((batch.old - batch.reference) * batch.written).sum(-1).mean()),
        entropy=entropy,
        response_tokens=float(batch.written.sum(-1).float().mean()),
        finished=rollout.finished,
        policy_loss=policy,
        value_loss=value,
        clip_share=clipped,
        grad_norm=norm,
    )


@torch.no_grad()
def _prepare(learner: Learner, rollout: Rollout, settings: PpoConfig) -> _Batch:
    """Log-probabilities under the start policy, then rewards, advantages and returns.

    The old log-probabilities are those with which the tokens were drawn: the distribution that truly made them, and no
    second forward pass. At another sampling temperature they are computed anew, at that temperature.
    """
    texts = arrange(rollout.prompts, rollout.responses, learner.policy.model.device)
    with learner.policy.peft.disable_adapter():
        reference = _scored(learner, rollout, settings)
    old = rollout.logprobs if settings.temperature == 1 else _scored(learner, rollout, settings)
    rewards = token_rewards(rollout.rewards, old, reference, texts.written, settings)
    found, returns = advantages(rewards, rollout.values, texts.written, settings.gamma, settings.gae_lambda)
    return _Batch(rollout, old, reference, whitened(found, texts.written), returns, texts.written)


def _scored(learner: Learner, rollout: Rollout, settings: PpoConfig) -> Tensor:
    """(row, token) log-probabilities of all responses, computed in pieces of the size of a mini-batch."""
    device, size = learner.policy.model.device, settings.batch // settings.minibatches
    found = torch.zeros_like(rollout.logprobs)
    for first in range(0, settings.batch, size):
        texts = arrange(rollout.prompts[first : first + size], rollout.responses[first : first + size], device)
        piece = score(learner.policy.model, texts, settings.temperature).logprobs * texts.written
        found[first : first + size, : piece.shape[1]] = piece
    return found


def _minibatches(settings: PpoConfig, update: int, epoch: int) -> list[list[int]]:
    order = random_stream(settings.seed, "minibatches", update, epoch).permutation(settings.batch).tolist()
    size = settings.batch // settings.minibatches
    return [order[first : first + size] for first in range(0, settings.batch, size)]


def _step(learner: Learner, batch: _Batch, rows: list[int], settings: PpoConfig) -> tuple[float, ...]:
    """One optimiser step on some rows: policy loss, value loss, clip share, entropy, gradient norm."""
    rollout = batch.rollout
    texts: Texts = arrange([rollout.prompts[r] for r in rows], [rollout.responses[r] for r in rows], batch.old.device)
    scored = score(learner.policy.model, texts, settings.temperature, entropy_grad=settings.entropy_coef > 0)
    width = texts.written.shape[1]
    old, reference, advantage, returns = (t[rows, :width] for t in (batch.old, batch.reference, batch.advantage, batch.returns))
    predicted = learner.value(scored.states)
    loss = ppo_loss(
        scored.logprobs, scored.entropy, predicted, old, reference, advantage, returns, texts.written, settings
    )  # fmt: skip
    entropy = float(masked_mean(scored.entropy.detach(), texts.written))
    norm = learner.step(loss.total, settings.grad_clip)
    return float(loss.policy), float(loss.value), float(loss.clip_share), entropy, norm
