"""Log-probabilities of given responses under a policy, with gradients if wanted."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from workflow.decoding import common_start, head_inputs


class Texts(NamedTuple):
    """Prompts with responses as one batch. Columns: padding, rest of the prompt behind the common start, response."""

    start: Tensor
    """(1, start) what all prompts begin with."""
    ids: Tensor
    """(row, column) without the last response column, which predicts nothing."""
    mask: Tensor
    """(row, start + column)"""
    positions: Tensor
    """(row, column)"""
    responses: Tensor
    """(row, token)"""
    written: Tensor
    """(row, token) bool: false behind the end of a row's response."""


class Scored(NamedTuple):
    """What a policy says of each response token; nothing behind a row's end counts."""

    logprobs: Tensor
    """(row, token) in nats."""
    entropy: Tensor
    """(row, token) of the distribution that the token was drawn from, in nats."""
    states: Tensor
    """(row, token, d_model) what the language-model head saw before the token, float32, without gradient."""
    logits: Tensor
    """(row, token, vocab)"""


def arrange(prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], device: torch.device) -> Texts:
    """Prompts and responses as one batch, padded as little as their common start allows."""
    shared, longest = common_start(prompts), max(map(len, responses))
    width = max(map(len, prompts)) - shared
    pads = torch.tensor([width + shared - len(prompt) for prompt in prompts]).unsqueeze(-1)
    lengths = torch.tensor([len(response) for response in responses]).unsqueeze(-1)
    rows = [[0] * (width + shared - len(p)) + list(p[shared:]) for p in prompts]
    padded = torch.tensor([list(response) + [0] * (longest - len(response)) for response in responses])
    column = torch.arange(width + longest - 1)
    real = (column >= pads) & (column < width + lengths)
    whole = torch.cat([torch.ones(len(rows), shared, dtype=torch.bool), real], 1)
    ids = torch.cat([torch.tensor(rows), padded[:, :-1]], 1)
    positions = (shared + column - pads).clamp(min=0)
    start = torch.tensor([list(prompts[0][:shared])], dtype=torch.long)
    written = torch.arange(longest) < lengths
    return Texts(*(tensor.to(device) for tensor in (start, ids, whole.long(), positions, padded, written)))


def score(model: PreTrainedModel, texts: Texts, temperature: float = 1.0, entropy_grad: bool = False) -> Scored:
    """Log-probability and entropy at every response token at a temperature, and the states before them.

    Gradients go through the entropy only if `entropy_grad` says so; keeping them costs memory of the size of the logits.
    The common start is read once for all rows; gradients flow through it as if each row had read it.
    """
    rows, tokens = texts.responses.shape
    cache = DynamicCache(config=model.config)
    if texts.start.shape[1]:
        model(input_ids=texts.start, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache.batch_repeat_interleave(rows)
    # an index, not a slice: a slice is not contiguous, and the head would be copied once per row
    kept = torch.arange(texts.ids.shape[1] - tokens, texts.ids.shape[1], device=texts.ids.device)
    given = {"attention_mask": texts.mask, "position_ids": texts.positions, "past_key_values": cache}
    with head_inputs(model) as seen:
        logits = model(input_ids=texts.ids, **given, use_cache=True, logits_to_keep=kept).logits.float() / temperature
    total = logits.logsumexp(-1)
    logprobs = logits.gather(-1, texts.responses.unsqueeze(-1)).squeeze(-1) - total
    with torch.set_grad_enabled(torch.is_grad_enabled() and entropy_grad):
        entropy = total - (torch.softmax(logits, -1) * logits).sum(-1)
    return Scored(logprobs, entropy, seen[0].detach().float(), logits)
