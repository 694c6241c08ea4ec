"""Patterns of step-level SAEs on equal terms: token ids, gaps, the end token left aside, each pattern paid for in bits.

A step counts as matched where a pattern ends inside it; what stands in front of it may be part of the pattern.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from workflow.n2g.candidates import candidates_of
from workflow.n2g.contexts import Context
from workflow.n2g.encoding import Text
from workflow.n2g.ends import EndReader, Form, Place
from workflow.n2g.patterns import Costs, Pattern, matches
from workflow.n2g.saving import ENDS, HITS, Saving
from workflow.n2g.vocabulary import Vocabulary
from workflow.n2g.windows import Window

IMPORTANCE = 0.5
MAX_GAP = 4


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


def runs(longest: int) -> list[Form]:
    """The last tokens as they stand, one to `longest` of them."""
    return [tuple(Place(back, False) for back in range(length)) for length in range(1, longest + 1)]


class StepChooser:
    """Chooses patterns by what they say of steps."""

    def __init__(self, steps: Steps, vocabulary: Vocabulary) -> None:
        self._steps, self._members, self._ends = steps, vocabulary.members, EndReader(steps.text, vocabulary)
        self._saving = Saving(len(steps.last), Costs(steps.text.tokens, vocabulary, MAX_GAP))

    def likely_ends(self, forms: Sequence[Form], active: np.ndarray) -> list[list[Pattern]]:
        """Ends of some forms that would save bits alone, of each latent the best ones first; of all steps, form by form.

        Args:
            forms: which tokens are looked at.
            active: bool [step, latent].
        """
        found: list[list[tuple[float, Form, int]]] = [[] for _ in range(active.shape[1])]
        for form in forms:
            rows, number, first = self._ends.ends(form)
            number, step = np.divmod(np.unique(number * len(active) + self._steps.step[rows]), len(active))
            matched = np.bincount(number, minlength=len(first))
            for best, mine in zip(found, active.T, strict=True):
                saved = self._saving.alone(np.bincount(number[mine[step]], minlength=len(first)), matched, mine)
                good = saved > 0
                best += [(bits, form, row) for bits, row in zip(saved[good].tolist(), first[good].tolist(), strict=True)]
                best.sort(key=lambda end: -end[0])
                del best[ENDS:]
        return [[self._ends.pattern(form, row) for _, form, row in best] for best in found]

    def hits(self, patterns: Sequence[Pattern]) -> dict[Pattern, np.ndarray]:
        """Numbers of the steps that each pattern matches; those that match none are left out, and the last ones beyond `HITS`."""
        found, total = dict[Pattern, np.ndarray](), 0
        for pattern in dict.fromkeys(patterns):
            steps = self.matched(pattern)
            if len(steps) and total + len(steps) <= HITS:
                found[pattern] = steps
                total += len(steps)
        return found

    def matched(self, pattern: Pattern, steps: Steps | None = None) -> np.ndarray:
        """Numbers of the steps that a pattern matches, of these steps or of others."""
        chosen = steps or self._steps
        found = matches(pattern, chosen.text.tokens, chosen.text.pos, self._members) & chosen.text.kept
        return np.unique(chosen.step[found])

    def choose(self, hits: Mapping[Pattern, np.ndarray], active: np.ndarray, most: int) -> list[Pattern]:
        """Those that say together where a latent is active, in the order in which they were found to save bits.

        Args:
            hits: candidates with the steps that they match.
            active: bool [step].
            most: patterns at most.
        """
        saved = {pattern: hits[pattern] for pattern in self._saving.greedy(hits, active, most)}
        says = self._saving.says(saved, active)
        return [pattern for pattern in saved if pattern in says]

    def said(self, patterns: Sequence[Pattern], steps: Steps | None = None) -> np.ndarray:
        """Whether any of the patterns matches each step, of these steps or of others: bool [step]."""
        found = np.zeros(len((steps or self._steps).last), dtype=bool)
        for pattern in patterns:
            found[self.matched(pattern, steps)] = True
        return found
