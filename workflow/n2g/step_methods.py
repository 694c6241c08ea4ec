"""The two ways to patterns of the latents of a step-level SAE: on equal terms, and as published."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from workflow.config.n2g import StepN2gConfig
from workflow.n2g.ends import forms
from workflow.n2g.patterns import as_json
from workflow.n2g.published_steps import WILDCARD, Found, Limits, lines, matched_ids, occurs, patterns_of, ratios
from workflow.n2g.step_contexts import chosen_steps, taken_apart
from workflow.n2g.step_parts import Part, ranked
from workflow.n2g.step_patterns import StepChooser, candidates, flattened, runs
from workflow.n2g.step_windows import StepReader
from workflow.n2g.vocabulary import Vocabulary
from workflow.step_tokens import StepTokenizer

LONGEST = 16
"""Tokens that a counted end spans at most."""
NGRAM = 3
"""Tokens of a run at most among which the baseline chooses."""


class Latent(NamedTuple):
    """What was found of one latent."""

    latent: int
    patterns: list[dict[str, Any]]
    said: np.ndarray
    """Whether the patterns match each held-out step, bool."""
    by_tokens: np.ndarray | None
    """The same of the best single tokens."""
    by_ngrams: np.ndarray | None
    """The same of the best runs of up to three tokens."""


Result = tuple[list[Latent], list[dict[str, Any]]]


def mine_patterns(
    reader: StepReader, order: np.ndarray, codes: np.ndarray, truth: np.ndarray, mined: Part, held_out: Part,
    tokenizer: StepTokenizer, vocabulary: Vocabulary, settings: StepN2gConfig, seed: int,
) -> Result:  # fmt: skip
    """Patterns of latents on equal terms, and a line of each.

    Args:
        reader: of these latents.
        order: their indices.
        codes: their activations on the steps in which patterns are found, [step, latent].
        truth: whether they are active on held-out steps, bool [step, latent].
        mined: those steps.
        held_out: steps on which patterns are scored.
        tokenizer: of the SSAE.
        vocabulary: of the tokenizer.
        settings: of the section.
        seed: of draws.
    """
    flat, tested = (flattened([part.sequence(step) for step in range(len(part))], part.starts()) for part in (mined, held_out))
    chooser, pool, active = StepChooser(flat, vocabulary), flat.text.tokens[flat.text.kept], codes > settings.active_above
    counted = zip(*(chooser.likely_ends(tried, active) for tried in (forms(LONGEST), runs(1), runs(NGRAM))), strict=True)
    every, told = list[Latent](), list[dict[str, Any]]()
    for at, (latent, tried) in enumerate(zip(order.tolist(), counted, strict=True)):
        choose = partial(chooser.choose, active=active[:, at], most=settings.patterns)
        hits, *others = map(chooser.hits, tried)
        strongest = ranked(codes[:, at], settings.active_above)
        original = chosen_steps(strongest, chooser.said(choose(hits)), settings.firings, [seed, latent])
        contexts = taken_apart(
            reader, {step: mined.sequence(step) for step in original}, at, original, keep=settings.keep, pool=pool, seed=seed
        )
        patterns = choose(hits | chooser.hits(candidates(contexts, vocabulary)))
        elements = [{"elements": as_json(pattern, vocabulary), "matched": len(chooser.matched(pattern))} for pattern in patterns]
        said, *by_others = (chooser.said(one, tested) for one in (patterns, *map(choose, others)))
        every.append(Latent(latent, elements, said, *by_others))
        true = truth[:, at]
        result = ratios(int((said & true).sum()), int((said & ~true).sum()), int((~said & true).sum()))
        told.append({"latent_idx": latent, "pattern": elements, **result, "num_latents": len(order)})
        reader.forget()
    return every, told


def mine_published(
    reader: StepReader, order: np.ndarray, codes: np.ndarray, truth: np.ndarray, mined: Part, held_out: Part,
    tokenizer: StepTokenizer, vocabulary: Vocabulary, settings: StepN2gConfig, seed: int,
) -> Result:  # fmt: skip
    """Patterns of latents as published, and the lines of the published output; arguments as of `mine_patterns`."""
    backend = tokenizer.tokenizer
    pad = backend.pad_token_id if backend.pad_token_id is not None else backend.eos_token_id
    limits = Limits(settings.keep, settings.patterns, settings.active_above)
    text: Callable[[Any], str] = backend.decode
    encode: Callable[[str], Sequence[int]] = lambda part: backend(part, add_special_tokens=False).input_ids  # noqa: E731  # a name for it says what it does
    sequences = [held_out.sequence(step) for step in range(len(held_out))]
    patterns: dict[int, list[Found]] = {}
    results, every = {}, []
    for at, latent in enumerate(order.tolist()):
        found = patterns_of(
            reader, mined.sequence, ranked(codes[:, at], settings.active_above), at, pad, lambda one: text([one]), limits
        )
        ids = [matched_ids(one.pattern, encode) for one in found]
        said = np.array([any(occurs(pattern, sequence) for pattern in ids) for sequence in sequences], dtype=bool)
        active = truth[:, at]
        results[latent] = ratios(int((said & active).sum()), int((said & ~active).sum()), int((~said & active).sum()))
        patterns[latent] = found
        told = [{"elements": [_published_element(word) for word in one.pattern], "activation": one.activation} for one in found]
        every.append(Latent(latent, told, said, None, None))
        reader.forget()
    return every, list(lines(patterns, results, lambda ids: text(list(ids))))


def _published_element(word: str) -> dict[str, Any]:
    return {"gap": [1, 1]} if word == WILDCARD else {"ids": [], "texts": [word]}
