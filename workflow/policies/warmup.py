"""The supervised format warm-up: a few LoRA steps on reference solutions, merged."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from workflow.config.policies import WarmupConfig
from workflow.config.prompts import PromptsConfig
from workflow.config.section import ConfigError
from workflow.formats.problems import Problem
from workflow.policies.lora import with_lora
from workflow.policies.ppo import masked_mean
from workflow.policies.rollout import draw
from workflow.policies.scoring import arrange, score
from workflow.progress import Progress
from workflow.prompts import render, response_tokens

log = logging.getLogger(__name__)


class WarmupRow(NamedTuple):
    """One optimiser step."""

    update: int
    loss: float
    """Mean negative log-likelihood of a solution's token before the step, in nats."""


def warm_up(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    settings: WarmupConfig,
    rank: int,
    alpha: int,
    prompts: PromptsConfig,
) -> tuple[PreTrainedModel, list[WarmupRow]]:
    """The model after the warm-up on reference solutions, and the loss of each step.

    Raises:
        ConfigError: there are no problems of the split warmup with a reference solution.
    """
    solved = [problem for problem in problems if problem.solution]
    if not solved:
        raise ConfigError(
            f"policies.warmup needs problems of the split warmup with a reference solution; of {len(problems)} none has one. "
            "Set problems.solution and problems.splits.warmup, or policies.warmup.updates: 0."
        )
    policy = with_lora(model, rank, alpha, settings.seed)
    weights = list(policy.weights().values())
    optimiser = torch.optim.AdamW(weights, lr=settings.lr, weight_decay=0.0)
    rows = []
    with Progress(settings.updates, "warm-up", "updates") as progress:
        for update in range(1, settings.updates + 1):
            chosen = draw(solved, settings.batch, settings.seed, "warmup", update)
            asked = [render(tokenizer, problem._asdict(), prompts).token_ids for problem in chosen]
            answers = [response_tokens(tokenizer, problem.solution or "") for problem in chosen]
            texts = arrange(asked, answers, model.device)
            loss = -masked_mean(score(policy.model, texts).logprobs, texts.written)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimiser.step()
            rows.append(WarmupRow(update, float(loss.detach())))
            log.info("warm-up update %d: loss %.3f", update, rows[-1].loss)
            progress.advance(note=f"loss {rows[-1].loss:.3f}")
    return policy.merge(), rows
