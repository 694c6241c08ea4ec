"""Solutions of texts as token ids, many at a time: `encoded_texts`; what any source gives the step cache: `Encoded`."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from workflow.ssae.forms import TEXT_FORMS, Limits, StepRules
from workflow.ssae.solutions import Solution
from workflow.ssae.step_contexts import TextStep, text_steps
from workflow.step_tokens import StepTokenizer

BATCH_CHARACTERS = 1 << 21
"""Texts that are tokenised at a time; with their ids some ten times as many bytes of memory."""


class Span(NamedTuple):
    """Where one step with its context stands in the tokens of its solution."""

    number: int
    """Of the step in its solution, from 0; blank steps count."""
    context_start: int
    context_length: int
    step_start: int
    step_length: int


class Encoded(NamedTuple):
    """A solution as token ids."""

    problem: str
    line: int
    split: str
    """train, val or test; "" where the source has no splits."""
    trace: str
    """Id of the trace; "" where the source has none."""
    strict: int
    flexible: int
    """1 right, 0 wrong, −1 not graded."""
    tokens: np.ndarray
    """int32."""
    spans: list[Span]
    blank_steps: int
    """Steps that are left out because nothing is in them."""
    cut_contexts: int
    cut_steps: int
    """Steps that lost tokens there."""


def encoded_texts(solutions: Iterable[Solution], tokenizer: StepTokenizer, rules: StepRules) -> Iterator[Encoded]:
    """The solutions in their order, contexts and steps within the limits of the rules."""
    joint = TEXT_FORMS[rules.format].joint
    group: list[tuple[Solution, list[TextStep]]] = []
    characters = 0
    for solution in solutions:
        texts = list(text_steps(solution, joint))
        group.append((solution, texts))
        characters += sum(len(one.context) + len(one.text) for one in texts)
        if characters >= BATCH_CHARACTERS:
            yield from _encoded(group, tokenizer, rules.limits)
            group, characters = [], 0
    yield from _encoded(group, tokenizer, rules.limits)


def _encoded(group: Sequence[tuple[Solution, list[TextStep]]], tokenizer: StepTokenizer, limits: Limits) -> Iterator[Encoded]:
    contexts = iter(tokenizer.encode([one.context for _, texts in group for one in texts]))
    steps = iter(tokenizer.encode([one.text for _, texts in group for one in texts]))
    room = limits.context - len(tokenizer.prefix)
    for solution, texts in group:
        kept_tokens: list[np.ndarray] = []
        spans: list[Span] = []
        place = cut_contexts = cut_steps = 0
        for one in texts:
            context, step = next(contexts), next(steps)
            if not len(step):  # white space to the tokenizer, though not to Python
                continue
            cut_contexts += len(context) > room
            cut_steps += len(step) > limits.step
            context, step = kept(context, room, limits), step[: limits.step]
            spans.append(Span(one.number, place, len(context), place + len(context), len(step)))
            kept_tokens += [context, step]
            place += len(context) + len(step)
        tokens = np.concatenate(kept_tokens) if kept_tokens else np.empty(0, np.int32)
        blank = sum(map(len, solution.parts)) - len(spans)
        yield Encoded(solution.problem, solution.line, "", "", -1, -1, tokens, spans, blank, cut_contexts, cut_steps)


def kept(context: np.ndarray, room: int, limits: Limits) -> np.ndarray:
    """The end of a context that the limits keep, `room` tokens at most."""
    return context[:room] if limits.keep == "first" else context[max(len(context) - room, 0) :]
