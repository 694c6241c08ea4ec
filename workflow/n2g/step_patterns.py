"""Patterns of step-level SAEs on equal terms: token ids, gaps, the end token left aside, each pattern paid for in bits.

A step counts as matched where a pattern ends inside it; what stands in front of it may be part of the pattern.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from workflow.n2g.candidates import candidates_of
from workflow.n2g.contexts import Context
from workflow.n2g.encoding import Text, suffix_keys
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
LENGTHS_TOGETHER = 4
"""So many of them are encoded together; longer ones only of steps of which none was sufficient."""
NGRAM = 3
NGRAMS = 200
"""Runs of up to `NGRAM` tokens of steps that are tried for a latent, those that tell most steps apart."""


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
    cut: dict[int, tuple[Window, float]] = {}
    for first in range(0, len(LENGTHS), LENGTHS_TOGETHER):
        lengths = {step: _lengths(len(ids) - 1) for step, ids in sequences.items() if step not in cut}
        asked = [(step, length) for step, every in lengths.items() for length in every[first : first + LENGTHS_TOGETHER]]
        values = reader.read([sequences[step][-length - 1 :] for step, length in asked])
        for (step, length), found in zip(asked, values, strict=True):
            if step not in cut and (length == lengths[step][-1] or found[latent] >= keep * original[step]):
                cut[step] = (sequences[step][-length - 1 :], float(found[latent]))
    cut = {step: one for step, one in sorted(cut.items()) if one[1] > 0}
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


class Runs(NamedTuple):
    """Runs of tokens of one length that end in steps."""

    row: np.ndarray
    """A row at which each ends, int64 [run]."""
    run: np.ndarray
    """Pairs of a run and a step in which it ends, none twice: number of the run."""
    step: np.ndarray
    """Number of the step."""


def _runs(steps: Steps, length: int) -> Runs:
    rows = np.flatnonzero(steps.text.kept & (steps.text.pos >= length - 1))
    _, first, number = np.unique(suffix_keys(steps.text, length)[rows], return_index=True, return_inverse=True)
    pairs = np.unique(np.stack([number, steps.step[rows]]), axis=1)
    return Runs(rows[first], *pairs)


class StepChooser:
    """Chooses patterns by what they say of steps."""

    def __init__(self, steps: Steps, vocabulary: Vocabulary) -> None:
        self._steps, self._members = steps, vocabulary.members
        self._costs = Costs(steps.text.tokens, vocabulary, MAX_GAP)
        self._runs = [_runs(steps, length) for length in range(1, NGRAM + 1)]

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

    def ngrams(self, active: np.ndarray) -> list[Pattern]:
        """Runs of tokens on most of whose steps a latent is active, those on the most of them first.

        Args:
            active: bool [step].
        """
        found: list[tuple[int, Pattern]] = []
        for length, runs in enumerate(self._runs, start=1):
            seen = np.bincount(runs.run, minlength=len(runs.row))
            more = 2 * np.bincount(runs.run[active[runs.step]], minlength=len(runs.row)) - seen
            for run in np.argsort(-more, kind="stable")[:NGRAMS].tolist():
                last = int(runs.row[run])
                tokens = self._steps.text.tokens[last - length + 1 : last + 1].tolist()
                found.append((int(more[run]), tuple(Tokens((token,)) for token in tokens)))
        return [pattern for more, pattern in sorted(found, key=lambda one: -one[0])[:NGRAMS] if more > 0]

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
