"""Steps of a step-level SAE taken apart for one latent: the shortest sufficient end of each, and what each token in it matters."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from workflow.n2g.contexts import Context, Replacing, replacements
from workflow.n2g.step_windows import StepReader
from workflow.n2g.windows import Window

DRAWS = 2
"""Random tokens that each token is replaced with at most."""
DOUBTFUL = 0.25
"""Where the first of them takes less than this share of the activation, the token does not matter and the others are not tried."""
LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Tokens in front of the end that are tried as the shortest sufficient end."""
LENGTHS_TOGETHER = 4
"""So many of them are encoded together; longer ones only of steps of which none was sufficient."""


class Cut(NamedTuple):
    """The shortest sufficient end of a step."""

    ids: Window
    """With the end token."""
    activation: float


def chosen_steps(strongest: Sequence[tuple[int, float]], told: np.ndarray, count: int, seed: Sequence[int]) -> dict[int, float]:
    """Steps that are taken apart, with activations: the strongest ones, and some drawn from those that no pattern tells yet.

    Args:
        strongest: steps on which the latent is active, the strongest first.
        told: whether patterns say so, bool [step].
        count: steps; fewer where patterns tell all others.
        seed: of the draw.
    """
    top = strongest[: (count + 1) // 2]
    others = [one for one in strongest[len(top) :] if not told[one[0]]]
    drawn = sorted(np.random.default_rng(list(seed)).permutation(len(others))[: count // 2].tolist())
    return dict([*top, *(others[place] for place in drawn)])


def taken_apart(
    reader: StepReader, sequences: Mapping[int, Window], latent: int, original: Mapping[int, float], *, keep: float,
    pool: np.ndarray, seed: int,
) -> list[Context]:  # fmt: skip
    """The shortest sufficient end of each step, and what each token in it matters; the end token is always there.

    Args:
        reader: of the latents.
        sequences: by number of the step.
        latent: place of the latent in the reader.
        original: activation of each step.
        keep: share that a shortened step must keep.
        pool: tokens that random ones are drawn from.
        seed: of those draws.
    """
    cuts = _shortest(reader, sequences, latent, original, keep)
    left = _left(reader, cuts, latent, pool, seed)
    return [
        Context(
            step, latent, ids[:-1], original[step], activation / original[step],
            tuple(1 - float(np.mean(left[step, at])) for at in range(len(ids) - 1)),
            max(float(np.ptp(left[step, at])) for at in range(len(ids) - 1)), {},
        )
        for step, (ids, activation) in cuts.items()
    ]  # fmt: skip


def _shortest(
    reader: StepReader, sequences: Mapping[int, Window], latent: int, original: Mapping[int, float], keep: float
) -> dict[int, Cut]:
    """By step, rising; without those of which no end has any activation left."""
    cuts: dict[int, Cut] = {}
    for first in range(0, len(LENGTHS), LENGTHS_TOGETHER):
        lengths = {step: _lengths(len(ids) - 1) for step, ids in sequences.items() if step not in cuts}
        asked = [(step, length) for step, every in lengths.items() for length in every[first : first + LENGTHS_TOGETHER]]
        values = reader.read([sequences[step][-length - 1 :] for step, length in asked])
        for (step, length), found in zip(asked, values, strict=True):
            if step not in cuts and (length == lengths[step][-1] or found[latent] >= keep * original[step]):
                cuts[step] = Cut(sequences[step][-length - 1 :], float(found[latent]))
    return {step: cut for step, cut in sorted(cuts.items()) if cut.activation > 0}


def _lengths(room: int) -> list[int]:
    longest = min(room, LENGTHS[-1])
    return [*(length for length in LENGTHS if length < longest), longest]


def _left(
    reader: StepReader, cuts: Mapping[int, Cut], latent: int, pool: np.ndarray, seed: int
) -> dict[tuple[int, int], list[float]]:
    """Activation with other tokens in the place of one / activation, by step and place, the end token left out."""
    replacing = Replacing(DRAWS, mean=False, fixed=None, seed=seed)
    others = {
        (step, at): list(replacements(pool, ids[at], replacing, step, len(ids) - at))
        for step, (ids, _) in cuts.items() for at in range(len(ids) - 1)
    }  # fmt: skip
    left: dict[tuple[int, int], list[float]] = {place: [] for place in others}
    for draw in range(DRAWS):
        places = [place for place, found in left.items() if not found or min(found) <= 1 - DOUBTFUL]
        windows = [(*cuts[step].ids[:at], others[step, at][draw], *cuts[step].ids[at + 1 :]) for step, at in places]
        for (step, at), values in zip(places, reader.read(windows), strict=True):
            left[step, at].append(float(values[latent]) / cuts[step].activation)
    return left
