"""One batch of PPO: problems drawn, answered by the policy and rewarded."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from workflow.answers import grade
from workflow.config.policies import PpoConfig
from workflow.config.prompts import PromptsConfig
from workflow.decoding import random_stream
from workflow.formats.problems import Problem
from workflow.prompts import render
from workflow.sampling import SamplingSettings, TransformersEngine


class Rollout(NamedTuple):
    """Answers to one batch of problems, row by row."""

    prompts: list[list[int]]
    """Token ids."""
    responses: list[list[int]]
    """Token ids, the one that ended a response included."""
    logprobs: Tensor
    """(row, token) of each response token when it was drawn, at temperature 1, 0 behind a row's end."""
    values: Tensor
    """(row, token) return that the value head expected before each token, 0 behind a row's end."""
    rewards: Tensor
    """(row,) what PPO is given."""
    strict: float
    """Share of answers that are right under the rule strict."""
    flexible: float
    """Share of answers that are right under the rule flexible."""
    finished: float
    """Share of answers that ended by themselves."""


def draw(problems: Sequence[Problem], batch: int, seed: int, *names: object) -> list[Problem]:
    """Problems drawn with replacement in proportion to their weights, by the seed and names alone."""
    weights = np.array([problem.weight for problem in problems])
    chosen = random_stream(seed, "problems", *names).choice(len(problems), size=batch, p=weights / weights.sum())
    return [problems[int(index)] for index in chosen]


def roll_out(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    value: Callable[[Tensor], Tensor],
    names: Sequence[object],
    settings: PpoConfig,
    prompts: PromptsConfig,
) -> Rollout:
    """Let the model answer the problems; `names` tell this batch's random streams from those of other batches."""
    rendered = [render(tokenizer, problem._asdict(), prompts).token_ids for problem in problems]
    streams = ["/".join(map(str, (*names, row))) for row in range(len(problems))]
    how = SamplingSettings(settings.temperature, 1.0, settings.max_new_tokens, len(problems), settings.seed)
    answered = TransformersEngine(model, tokenizer).sample_reading(rendered, streams, how, read=value)
    texts = [str(tokenizer.decode(sampled.tokens, skip_special_tokens=True)) for sampled, _ in answered]
    grades = [grade(text, problem.answer) for text, problem in zip(texts, problems, strict=True)]
    rule = "strict" if settings.reward == "permuted" else settings.reward
    rewards = np.array([float(getattr(verdict, rule)) for verdict in grades])
    if settings.reward == "permuted":
        rewards = random_stream(settings.seed, "permuted", *names).permutation(rewards)
    return Rollout(
        prompts=rendered,
        responses=[sampled.tokens for sampled, _ in answered],
        logprobs=_rows([sampled.logprobs for sampled, _ in answered]).to(model.device),
        values=_rows([values for _, values in answered]).to(model.device),
        rewards=torch.tensor(rewards, dtype=torch.float32, device=model.device),
        strict=float(np.mean([verdict.strict for verdict in grades])),
        flexible=float(np.mean([verdict.flexible for verdict in grades])),
        finished=float(np.mean([sampled.finished for sampled, _ in answered])),
    )


def _rows(values: list[list[float]]) -> Tensor:
    return pad_sequence([torch.tensor(row, dtype=torch.float32) for row in values], batch_first=True)
