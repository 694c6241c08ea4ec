"""Patterns of step-level SAEs as the code of the SSAE paper finds and scores them, in fewer passes; for comparison alone.

The shortest end of a sequence (context, separator, step, end) that keeps half of the activation, grown from the end token; each of
its tokens replaced with the padding token: where less than half of the *original* activation is left the token stays, else it
becomes `*`, any one token. Up to 20 distinct patterns per latent, from its strongest steps on. Texts of tokens are encoded again
and their first id alone is matched. A step is said to be active where any pattern stands anywhere in its sequence, patterns of `*`
alone included. What that is worth, `docs/n2g.md` says.

Source: Miaow-Lab/SSAE, experiment/N2G/N2G_pattern.py.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from workflow.n2g.step_windows import StepReader
from workflow.n2g.windows import Window

WILDCARD = "*"
LENGTHS_TOGETHER = 8
"""Lengths of an end that are encoded together; the shortest sufficient one among them is taken."""
STEPS_TOGETHER = 4
"""Strongest steps of a latent that are looked at together."""
EPS = 1e-8


class Limits(NamedTuple):
    """Settings of the procedure."""

    keep: float = 0.5
    patterns: int = 20
    active_above: float = 0.0


class Found(NamedTuple):
    """One pattern and the step it is from."""

    pattern: tuple[str, ...]
    activation: float
    """Of the whole step."""
    original: Window
    short: Window


def enough(value: float, original: float, keep: float) -> bool:
    """Whether enough of an activation is left; both are rounded to half precision, as there."""
    return bool(np.float16(value) >= np.float16(keep) * np.float16(original))


def shortest_ends(
    reader: StepReader, steps: Mapping[int, Window], latent: int, original: Mapping[int, float], keep: float
) -> dict[int, Window]:
    """The shortest sufficient end of each step, the whole of one that has none.

    Args:
        reader: of the latents.
        steps: sequences by number.
        latent: place of the latent in the reader.
        original: activation of each step.
        keep: share that must be left.
    """
    found: dict[int, Window] = {}
    first = 1
    while open_steps := [step for step, ids in steps.items() if step not in found and len(ids) >= first]:
        asked = [
            (step, steps[step][-length:]) for step in open_steps
            for length in range(first, min(first + LENGTHS_TOGETHER, len(steps[step]) + 1))
        ]  # fmt: skip
        for (step, ids), values in zip(asked, reader.read([ids for _, ids in asked]), strict=True):
            if step not in found and enough(float(values[latent]), original[step], keep):
                found[step] = ids
        first += LENGTHS_TOGETHER
    return {step: found.get(step, ids) for step, ids in steps.items()}


def patterns_of(
    reader: StepReader, sequence: Callable[[int], Window], ranked: Sequence[tuple[int, float]], latent: int, pad: int,
    text: Callable[[int], str], limits: Limits,
) -> list[Found]:  # fmt: skip
    """Distinct patterns of one latent, from its strongest step on.

    Args:
        reader: of the latents.
        sequence: ids of a step with its context, separator and end.
        ranked: (step, activation), the largest first.
        latent: place of the latent in the reader.
        pad: what tokens are replaced with.
        text: of a token.
        limits: of the procedure.
    """
    found: dict[tuple[str, ...], Found] = {}
    for start in range(0, len(ranked), STEPS_TOGETHER):
        part = dict(ranked[start : start + STEPS_TOGETHER])
        steps = {step: sequence(step) for step in part}
        ends = shortest_ends(reader, steps, latent, part, limits.keep)
        masked = [(*ids[:at], pad, *ids[at + 1 :]) for ids in ends.values() for at in range(len(ids))]
        values = iter(reader.read(masked))
        for step, ids in ends.items():
            left = [float(next(values)[latent]) for _ in ids]
            pattern = tuple(
                WILDCARD if enough(value, part[step], limits.keep) else text(token) for token, value in zip(ids, left, strict=True)
            )
            if pattern not in found and len(found) < limits.patterns:
                found[pattern] = Found(pattern, part[step], steps[step], ids)
        if len(found) == limits.patterns:
            break
    return list(found.values())


def matched_ids(pattern: Sequence[str], encode: Callable[[str], Sequence[int]]) -> list[int | None]:
    """What a pattern is matched by: the first id of each text encoded anew, None for any; texts without ids are left out."""
    ids: list[int | None] = []
    for text in pattern:
        if text == WILDCARD:
            ids.append(None)
        elif encoded := encode(text):
            ids.append(int(encoded[0]))
    return ids


def occurs(pattern: Sequence[int | None], sequence: Sequence[int]) -> bool:
    """Whether a pattern stands anywhere in a sequence; one of no tokens does."""
    tokens = np.asarray(sequence)
    places = len(tokens) - len(pattern) + 1
    if places <= 0:
        return False
    here = np.ones(places, dtype=bool)
    for at, token in enumerate(pattern):
        if token is not None:
            here &= tokens[at : at + places] == token
    return bool(here.any())


def counted(patterns: Sequence[Sequence[int | None]], sequences: Sequence[Sequence[int]], active: Sequence[bool]) -> dict[str, Any]:
    """tp, fp, fn and what follows from them."""
    said = [any(occurs(pattern, sequence) for pattern in patterns) for sequence in sequences]
    pairs = list(zip(said, active, strict=True))
    return ratios(*(sum(pair == kind for pair in pairs) for kind in ((True, True), (True, False), (False, True))))


def ratios(tp: int, fp: int, fn: int) -> dict[str, Any]:
    """Precision, recall and F1 as there, and the counts."""
    precision, recall = tp / (tp + fp + EPS), tp / (tp + fn + EPS)
    return {"precision": precision, "recall": recall, "f1": 2 * precision * recall / (precision + recall + EPS),
            "tp": tp, "fp": fp, "fn": fn}  # fmt: skip


def lines(
    found: Mapping[int, Sequence[Found]], scores: Mapping[int, Mapping[str, Any]], text: Callable[[Window], str]
) -> Iterator[dict[str, Any]]:
    """The lines of the published output: one per latent, then the micro-average."""
    for latent, patterns in found.items():
        info = [
            {
                "pattern": list(one.pattern),
                "act": one.activation,
                "original_text": text(one.original),
                "short_text": text(one.short),
            }
            for one in patterns
        ]
        yield {"latent_idx": latent, "pattern": [list(one.pattern) for one in patterns], "pattern_info": info, **scores[latent],
               "num_latents": len(found)}  # fmt: skip
    total = ratios(*(sum(one[name] for one in scores.values()) for name in ("tp", "fp", "fn")))
    yield {"latent_idx": "average", "pattern": None, "pattern_info": None, **total, "num_latents": len(found)}
