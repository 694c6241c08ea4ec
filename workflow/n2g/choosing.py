"""Which patterns explain a latent: each saves more bits in telling on which rows it is active than it costs to write down."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from workflow.n2g.encoding import Firings, Text
from workflow.n2g.ends import Ends
from workflow.n2g.patterns import Costs, Pattern, matches
from workflow.n2g.saving import ENDS, HITS, Saving
from workflow.n2g.vocabulary import Vocabulary


class Explained(NamedTuple):
    """A pattern with what it does on the rows on which it was chosen."""

    pattern: Pattern
    matched: int
    """Rows that it matches."""
    fired: int
    """Of those, rows on which the latent is active."""
    strong: int
    """Of those, rows above the share `strong` of the largest activation."""
    activation: float
    """Mean activation over the rows that it matches."""
    gain: float
    """Bits that it saved when it was chosen."""
    says_active: bool
    """Whether the latent is said to be active on the rows that it matches; if not, it tells only where that is likelier."""
    says_strong: bool
    """The same of strong activations."""


class Chosen(NamedTuple):
    """The patterns of one latent."""

    patterns: list[Explained]
    covered: np.ndarray
    """Rows on which they say that it is active, bool [row]."""


class Chooser:
    """Chooses on the rows of one text."""

    def __init__(self, text: Text, vocabulary: Vocabulary, longest: int, max_gap: int) -> None:
        """
        Args:
            text: the rows.
            vocabulary: classes of tokens.
            longest: tokens of an end of a context at most.
            max_gap: of loose gaps.
        """
        self._text, self._members = text, vocabulary.members
        self._ends = Ends(text, vocabulary, longest)
        self._saving = Saving(int(text.kept.sum()), Costs(text.tokens, vocabulary, max_gap))

    def choose(self, candidates: Sequence[Pattern], firings: Firings, *, most: int, strong: float) -> Chosen:
        """Patterns in the order of the bits that they save: of all firings, then of strong ones.

        From which share on patterns say that the latent is active is set on these rows, too, so that F1 is largest.

        Args:
            candidates: patterns, tried beside the ends of contexts on which the latent is active.
            firings: where it is.
            most: patterns at most.
            strong: share of the largest activation from which one is strong.
        """
        active = np.zeros(len(self._text.tokens), dtype=np.float32)
        active[firings.rows] = firings.values
        truths = (active > 0, active >= max(strong * firings.largest, 1e-12))
        given = {pattern: rows for pattern in dict.fromkeys(candidates) if len(rows := self._rows(pattern))}
        hits, gains = dict[Pattern, np.ndarray](), dict[Pattern, float]()
        for truth in truths:
            tried = self._likely_ends(truth) | given
            saved = self._saving.greedy(tried, truth, most)
            hits, gains = {pattern: tried[pattern] for pattern in saved} | hits, saved | gains
        says = [self._saving.says(hits, truth) for truth in truths]
        found, covered = list[Explained](), np.zeros(len(active), dtype=bool)
        for pattern in sorted(gains, key=lambda one: -gains[one]):
            rows = hits[pattern]
            fired, strongly = (int(truth[rows].sum()) for truth in truths)
            tells, tells_strong = (pattern in said for said in says)
            mean = float(active[rows].mean())
            found.append(Explained(pattern, len(rows), fired, strongly, mean, gains[pattern], tells, tells_strong))
            covered[rows] |= found[-1].says_active
        return Chosen(found, covered)

    def _likely_ends(self, truth: np.ndarray) -> dict[Pattern, np.ndarray]:
        """Ends of contexts that would save bits alone, with the rows that they match, the best ones first."""
        found = list[tuple[float, int, int]]()
        for end in self._ends.of(np.flatnonzero(truth)):
            saved = self._saving.alone(end.among, end.seen, truth)
            good = saved > 0
            found += [(bits, end.form, number) for bits, number in zip(saved[good].tolist(), end.ids[good].tolist(), strict=True)]
        hits, total = dict[Pattern, np.ndarray](), 0
        for _, form, number in sorted(found, key=lambda one: (-one[0], one[1:]))[:ENDS]:
            rows = self._ends.rows(form, number)
            if total + len(rows) <= HITS:
                hits.setdefault(self._ends.pattern(form, number), rows)
                total += len(rows)
        return hits

    def _rows(self, pattern: Pattern) -> np.ndarray:
        return np.flatnonzero(matches(pattern, self._text.tokens, self._text.pos, self._members) & self._text.kept)
