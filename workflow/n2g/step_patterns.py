"""Patterns of step-level SAEs on equal terms: token ids, gaps, the end token left aside, each pattern paid for in bits.

A step counts as matched where a pattern ends inside it; what stands in front of it may be part of the pattern.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from workflow.n2g.candidates import candidates_of
from workflow.n2g.contexts import Context
from workflow.n2g.encoding import Text
from workflow.n2g.patterns import Costs, Pattern, Tokens, matches
from workflow.n2g.step_windows import StepReader
from workflow.n2g.vocabulary import Vocabulary
from workflow.n2g.windows import Window

DRAWS = 2
"""Random tokens that each token is replaced with."""
IMPORTANCE = 0.5
MAX_GAP = 4
LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Tokens in front of the end that are tried as the shortest sufficient end."""


class Steps(NamedTuple):
    """Steps of a store as one text, contexts and separators in front of them."""

    text: Text
    """`kept` is true for the tokens of steps; end tokens are left out."""
    step: np.ndarray
    """Which step each row is of, int64 [row]."""
    last: np.ndarray
    """Row of the last token of each step, int64 [step]."""


def flattened(sequences: Sequence[Window], starts: Sequence[int] | np.ndarray) -> Steps:
    """Sequences (context, separator, step, end) joined, without their ends.

    Args:
        sequences: ids.
        starts: place of the first token of the step in each.
    """
    sizes = np.array([len(ids) - 1 for ids in sequences])
    tokens = np.concatenate([np.asarray(ids[:-1], dtype=np.int64) for ids in sequences])
    step = np.repeat(np.arange(len(sequences)), sizes)
    begin = np.concatenate([[0], np.cumsum(sizes)])
    pos = np.arange(len(tokens)) - begin[step]
    return Steps(Text(tokens, pos, pos >= np.asarray(starts)[step]), step, begin[1:] - 1)


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
    asked = [(step, length) for step, ids in sequences.items() for length in _lengths(len(ids) - 1)]
    values = reader.read([sequences[step][-length - 1 :] for step, length in asked])
    cut: dict[int, tuple[Window, float]] = {}
    for (step, length), found in zip(asked, values, strict=True):
        longest = length == _lengths(len(sequences[step]) - 1)[-1]
        if step not in cut and (longest or found[latent] >= keep * original[step]):
            cut[step] = (sequences[step][-length - 1 :], float(found[latent]))
    cut = {step: one for step, one in cut.items() if one[1] > 0}
    masked = []
    for step, (ids, _) in cut.items():
        for at in range(len(ids) - 1):
            others = pool[np.random.default_rng([seed, step, len(ids) - at]).integers(len(pool), size=DRAWS)]
            masked += [(*ids[:at], int(other), *ids[at + 1 :]) for other in others]
    left = iter(reader.read(masked))
    contexts = []
    for step, (ids, activation) in cut.items():
        shares = np.array([[next(left)[latent] for _ in range(DRAWS)] for _ in ids[:-1]]) / activation
        importance = tuple((1 - shares.mean(1)).tolist())
        kept = activation / original[step]
        contexts.append(Context(step, latent, ids[:-1], original[step], kept, importance, float(np.ptp(shares, axis=1).max()), {}))
    return contexts


def _lengths(room: int) -> list[int]:
    return [*(length for length in LENGTHS if length < room), min(room, LENGTHS[-1])]


def candidates(contexts: Sequence[Context], vocabulary: Vocabulary) -> list[Pattern]:
    """Patterns that the evidence allows; where the last token does not matter they end at the last one that does."""
    found: dict[Pattern, None] = {}
    for context in contexts:
        matter = [at for at, share in enumerate(context.importance) if share >= IMPORTANCE]
        if matter:
            end = matter[-1] + 1
            own = context._replace(tokens=context.tokens[:end], importance=context.importance[:end])
            found |= dict.fromkeys(candidates_of(own, vocabulary, importance=IMPORTANCE, keep=0.5, max_gap=MAX_GAP))
    return list(found)


class StepChooser:
    """Chooses patterns by what they say of steps."""

    def __init__(self, steps: Steps, vocabulary: Vocabulary) -> None:
        self._steps, self._members = steps, vocabulary.members
        self._costs = Costs(steps.text.tokens, vocabulary, MAX_GAP)

    def matched(self, pattern: Pattern, steps: Steps | None = None) -> np.ndarray:
        """Numbers of the steps that a pattern matches, of these steps or of others."""
        chosen = steps or self._steps
        found = matches(pattern, chosen.text.tokens, chosen.text.pos, self._members) & chosen.text.kept
        return np.unique(chosen.step[found])

    def choose(self, every: Sequence[Pattern], active: np.ndarray, most: int) -> list[Pattern]:
        """As `choosing.Chooser`, with steps for rows.

        Args:
            every: candidates.
            active: bool [step].
            most: patterns at most.
        """
        rate = float(active.mean())  # a latent may be active on most steps: the rarer case is the one to be told
        bits = -math.log2(max(min(rate, 1 - rate), 1 / (len(active) + 1)))
        worth = np.where(active, bits, -bits)
        hits = {pattern: self.matched(pattern) for pattern in every}
        found: list[Pattern] = []
        while hits and len(found) < most:
            gains = {pattern: float(worth[steps].sum()) - self._costs.of(pattern) for pattern, steps in hits.items()}
            best = max(gains, key=lambda pattern: gains[pattern])
            if gains[best] <= 0:
                break
            found.append(best)
            worth[hits[best]] = 0.0
        return found

    def single_tokens(self, most: int) -> list[Pattern]:
        """The most frequent tokens of steps, each as a pattern: candidates of the baseline."""
        tokens, counts = np.unique(self._steps.text.tokens[self._steps.text.kept], return_counts=True)
        return [(Tokens((int(token),)),) for token in tokens[np.argsort(-counts, kind="stable")[:most]]]

    def said(self, patterns: Sequence[Pattern], steps: Steps) -> np.ndarray:
        """Whether any of the patterns matches each of some steps, bool [step]."""
        found = np.zeros(len(steps.last), dtype=bool)
        for pattern in patterns:
            found[self.matched(pattern, steps)] = True
        return found
