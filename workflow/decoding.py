"""Decoding one batch of prompts token by token, each row with random numbers of its own."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

DROP_BELOW = 0.75
"""Finished rows are taken out of a batch once at most this share of it is still being written."""


class Written(NamedTuple):
    """One response, token by token."""

    tokens: list[int]
    """Token ids, the one that ended it included."""
    logprobs: list[float]
    """Log-probability of each at temperature 1, in nats."""
    readings: list[float]
    """What was read from the state before each token; the log-probabilities again where nothing was to be read."""


def random_stream(seed: int, *names: object) -> np.random.Generator:
    """A counter-based generator that depends on the seed and the names alone. Source: Philox, Salmon et al. 2011."""
    digest = hashlib.sha256("\0".join(map(str, (seed, *names))).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def choose_tokens(logits: Tensor, uniforms: Tensor, temperature: float, top_p: float, top_k: int = 0) -> tuple[Tensor, Tensor]:
    """One token per row by inversion of its distribution function, and its log-probability at temperature 1.

    Args:
        logits: (row, vocab).
        uniforms: (row,) float64 in [0, 1), one number per row.
        temperature: 0 takes the most probable token.
        top_p: nucleus (Holtzman et al. 2020); 1 is all tokens.
        top_k: only so many of the most probable tokens, before the nucleus is taken of them; 0 is all.
    """
    logits = logits.float()
    if temperature == 0:
        tokens = logits.argmax(-1)
    else:
        # float64: the order in which a batch is summed may then not move a token across a boundary
        probs = torch.softmax(logits.double() / temperature, -1)
        limited = top_p < 1 or 0 < top_k < logits.shape[-1]
        cumulative = (_limited(probs, top_p, top_k) if limited else probs).cumsum(-1)
        threshold = (uniforms * cumulative[:, -1]).unsqueeze(-1)
        tokens = torch.searchsorted(cumulative, threshold, right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)
    return tokens, torch.log_softmax(logits, -1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def _limited(probs: Tensor, top_p: float, top_k: int) -> Tensor:
    if 0 < top_k < probs.shape[-1]:
        ordered, index = probs.topk(top_k, dim=-1)
        ordered = ordered / ordered.sum(-1, keepdim=True)
    else:
        ordered, index = probs.sort(stable=True, dim=-1, descending=True)
    inside = ordered.cumsum(-1) - ordered < top_p
    return torch.zeros_like(probs).scatter(-1, index, ordered * inside)


@contextlib.contextmanager
def head_inputs(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """A list to which every call of the language-model head inside the block adds the hidden states it is given."""
    seen: list[Tensor] = []
    head = model.get_output_embeddings()
    assert head is not None
    hook = head.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    try:
        yield seen
    finally:
        hook.remove()


class Decoding:
    """One batch of prompts being continued. Columns: common start of all prompts, padding, rest of the prompt, response.

    With `soft`, (row, token, d_model) input embeddings, these stand in front of each prompt in the place of the common start.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: list[Sequence[int]],
        read: Callable[[Tensor], Tensor] | None,
        soft: Tensor | None = None,
    ) -> None:
        self._model, self._prompts, self._read, self._soft = model, prompts, read, soft
        self._cache = DynamicCache(config=model.config)
        self._seen = torch.empty(0)

    def run(self, uniforms: np.ndarray, temperature: float, top_p: float, ends: Tensor, top_k: int = 0) -> Iterator[Written]:
        """What is written after each prompt, in their order.

        Args:
            uniforms: (row, step) numbers in [0, 1); there are as many steps as these at most.
            temperature: 0 is greedy.
            top_p: nucleus.
            ends: token ids that end a response.
            top_k: as for `choose_tokens`.
        """
        device, longest = self._model.device, uniforms.shape[1]
        numbers = torch.as_tensor(uniforms, device=device)
        rows = torch.arange(len(self._prompts), device=device)  # rows of the batch that are still in the cache
        alive = torch.ones_like(rows, dtype=torch.bool)
        steps: list[tuple[Tensor, ...]] = []
        logits = self._prefill()
        for step in range(longest):
            tokens, logprobs = choose_tokens(logits, numbers[rows, step], temperature, top_p, top_k)
            steps.append((rows, alive, tokens, logprobs, self._read(self._seen) if self._read else logprobs))
            alive = alive & ~torch.isin(tokens, ends)
            living = int(alive.sum())
            if not living or step + 1 == longest:
                break
            if living <= DROP_BELOW * len(rows):
                kept = alive.nonzero().squeeze(-1)
                rows, alive, tokens = rows[kept], alive[kept], tokens[kept]
                self._drop_to(kept)
            logits = self._advance(tokens)
        return self._collect(steps)

    def _prefill(self) -> Tensor:
        """Read the prompts and return the logits after each; what all prompts begin with is read once."""
        device, batch = self._model.device, len(self._prompts)
        shared = common_start(self._prompts) if self._soft is None else 0
        if shared:
            start = torch.tensor([self._prompts[0][:shared]], device=device)
            self._model(input_ids=start, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
            self._cache.batch_repeat_interleave(batch)
        width = max(map(len, self._prompts)) - shared
        pads = [width - (len(prompt) - shared) for prompt in self._prompts]
        # the padding is masked out, so any token will do
        ids = torch.tensor([[0] * n + list(p[shared:]) for n, p in zip(pads, self._prompts, strict=True)], device=device)
        column = torch.arange(width, device=device)
        padding = torch.tensor(pads, device=device).unsqueeze(-1)
        front = shared if self._soft is None else self._soft.shape[1]
        self._mask = torch.cat([torch.ones(batch, front, device=device), column >= padding], 1).long()
        self._next = torch.tensor([len(prompt) + front - shared for prompt in self._prompts], device=device)
        positions = (front + column - padding).clamp(min=0)
        if self._soft is None:
            return self._forward({"input_ids": ids}, positions)
        embed: Any = self._model.get_input_embeddings()
        tokens = embed(ids)
        before = torch.arange(front, device=device).expand(batch, -1)
        inputs = torch.cat([self._soft.to(tokens.dtype), tokens], 1)
        return self._forward({"inputs_embeds": inputs}, torch.cat([before, positions], 1))

    def _advance(self, tokens: Tensor) -> Tensor:
        self._mask = torch.cat([self._mask, torch.ones_like(tokens).unsqueeze(-1)], 1)
        positions, self._next = self._next.unsqueeze(-1), self._next + 1
        return self._forward({"input_ids": tokens.unsqueeze(-1)}, positions)

    def _forward(self, inputs: dict[str, Tensor], positions: Tensor) -> Tensor:
        # an index, not a slice: a slice is not contiguous, and the head would be copied once per row
        last = torch.tensor([positions.shape[1] - 1], device=positions.device)
        given = {"attention_mask": self._mask, "position_ids": positions, "past_key_values": self._cache}
        with head_inputs(self._model) as seen:
            logits = self._model(**inputs, **given, use_cache=True, logits_to_keep=last).logits[:, -1]
        self._seen = seen[0][:, -1]
        return logits

    def _drop_to(self, kept: Tensor) -> None:
        self._cache.batch_select_indices(kept)
        self._mask, self._next = self._mask[kept], self._next[kept]

    def _collect(self, steps: list[tuple[Tensor, ...]]) -> Iterator[Written]:
        """Columns of the steps turned into rows, what was decoded after a row's end left out."""
        written: list[list[tuple[int, float, float]]] = [[] for _ in self._prompts]
        for rows, alive, *values in steps:
            columns = [value[alive].tolist() for value in values]
            for row, *entry in zip(rows[alive].tolist(), *columns, strict=True):
                written[row].append(tuple(entry))
        for row in written:
            yield Written(*(list(column) for column in zip(*row, strict=True)))


def common_start(prompts: Sequence[Sequence[int]]) -> int:
    """Length of the longest start that all prompts share, at least one token of each left out."""
    shortest = min(map(len, prompts))
    differing = (n for n in range(shortest) if len({prompt[n] for prompt in prompts}) > 1)
    return min(next(differing, shortest), shortest - 1)
