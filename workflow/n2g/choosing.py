"""Which patterns explain a latent: each saves more bits in telling on which rows it is active than it costs to write down."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from workflow.n2g.encoding import Firings, Text
from workflow.n2g.ends import Ends
from workflow.n2g.patterns import Costs, Pattern, matches
from workflow.n2g.vocabulary import Vocabulary

DOUBT = 0.5
"""So many rows of the latent's firing rate are added to those that a pattern matches: few rows do not make it sure."""
ENDS = 300
"""Ends of contexts that are tried, those that would save the most bits alone."""
HITS = 1_000_000
"""Matched rows of all ends that are weighed together at most: memory and time of a choice do not grow with the store."""


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
        self._ends, self._costs = Ends(text, vocabulary, longest), Costs(text.tokens, vocabulary, max_gap)
        self._kept = int(text.kept.sum())

    def choose(self, candidates: Sequence[Pattern], firings: Firings, *, most: int, strong: float) -> Chosen:
        """Patterns in the order of the bits that they save: of all firings, then of strong ones.

        Without a pattern each kept row costs −log₂ of how often the latent is active, or silent, on any row; with one, −log₂ of how
        often it is on the rows that the pattern matches, and of several patterns that match the one of the largest share speaks.
        A pattern costs the bits that name it among all of its form (minimum description length, two-part code). From which share on
        patterns say that the latent is active is set on these rows, too, so that F1 is largest.

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
            saved = self._greedy(tried, truth, most)
            hits, gains = {pattern: tried[pattern] for pattern in saved} | hits, saved | gains
        says = [self._says(hits, truth) for truth in truths]
        found, covered = list[Explained](), np.zeros(len(active), dtype=bool)
        for pattern in sorted(gains, key=lambda one: -gains[one]):
            rows = hits[pattern]
            fired, strongly = (int(truth[rows].sum()) for truth in truths)
            tells, tells_strong = (pattern in said for said in says)
            mean = float(active[rows].mean())
            found.append(Explained(pattern, len(rows), fired, strongly, mean, gains[pattern], tells, tells_strong))
            covered[rows] |= found[-1].says_active
        return Chosen(found, covered)

    def _rate(self, truth: np.ndarray) -> float:
        return (int(truth.sum()) + 0.5) / (self._kept + 1)

    def _share(self, fired: np.ndarray | int, matched: np.ndarray | int, truth: np.ndarray) -> np.ndarray:
        """Of rows that a pattern matches, how many are expected to be active: between what was seen and the rate."""
        return (np.asarray(fired) + DOUBT * self._rate(truth)) / (np.asarray(matched) + DOUBT)

    def _cost(self, pattern: Pattern, matched: int) -> float:
        """Bits that name a pattern among those of its form, more for rarer ones; other tokens of a place cost theirs."""
        return math.log2(self._kept / matched) + self._costs.more(pattern)

    def _likely_ends(self, truth: np.ndarray) -> dict[Pattern, np.ndarray]:
        """Ends of contexts that would save bits alone, with the rows that they match, the best ones first."""
        rate, found = self._rate(truth), list[tuple[float, int, int]]()
        for end in self._ends.of(np.flatnonzero(truth)):
            share = self._share(end.among, end.seen, truth)
            saved = _bits(rate, end.among, end.seen) - _bits(share, end.among, end.seen) - np.log2(self._kept / end.seen)
            good = (saved > 0) & (share > rate)
            found += [(bits, end.form, number) for bits, number in zip(saved[good].tolist(), end.ids[good].tolist(), strict=True)]
        hits, total = dict[Pattern, np.ndarray](), 0
        for _, form, number in sorted(found, key=lambda one: (-one[0], one[1:]))[:ENDS]:
            rows = self._ends.rows(form, number)
            if total + len(rows) <= HITS:
                hits.setdefault(self._ends.pattern(form, number), rows)
                total += len(rows)
        return hits

    def _greedy(self, hits: Mapping[Pattern, np.ndarray], truth: np.ndarray, most: int) -> dict[Pattern, float]:
        """Chosen patterns with the bits that each saved."""
        found = dict[Pattern, float]()
        if not hits or not truth.any():
            return found
        names, sizes = list(hits), np.array([len(rows) for rows in hits.values()])
        begins, rows = np.concatenate([[0], np.cumsum(sizes)[:-1]]), np.concatenate(list(hits.values()))
        on, expected = truth[rows], np.full(len(truth), self._rate(truth))
        shares = self._share(np.add.reduceat(on.astype(np.int64), begins), sizes, truth)
        costs = np.array([self._cost(name, size) for name, size in zip(names, sizes.tolist(), strict=True)])
        told = np.repeat(shares, sizes)
        bits = _bits_of_rows(told, on)
        while len(found) < most:
            now = expected[rows]
            saved = np.add.reduceat(np.where(now < told, _bits_of_rows(now, on) - bits, 0.0), begins) - costs
            best = int(saved.argmax())
            if saved[best] <= 0:
                break
            found[names[best]] = float(saved[best])
            mine = hits[names[best]]
            expected[mine] = np.maximum(expected[mine], shares[best])
        return found

    def _says(self, hits: Mapping[Pattern, np.ndarray], truth: np.ndarray) -> set[Pattern]:
        """Patterns from the share on from which F1 is largest if they say active; of equals the fewest."""
        shares = {name: float(self._share(truth[rows].sum(), len(rows), truth)) for name, rows in hits.items()}
        said, every, best = np.zeros(len(truth), dtype=bool), int(truth.sum()), (0.0, math.inf)
        for share in sorted(set(shares.values()), reverse=True):
            for name, rows in hits.items():
                if shares[name] == share:
                    said[rows] = True
            f1 = 2 * int(truth[said].sum()) / (int(said.sum()) + every)
            best = max(best, (f1, share))
        return {name for name, share in shares.items() if share >= best[1]}

    def _rows(self, pattern: Pattern) -> np.ndarray:
        return np.flatnonzero(matches(pattern, self._text.tokens, self._text.pos, self._members) & self._text.kept)


def _bits_of_rows(share: np.ndarray, active: np.ndarray) -> np.ndarray:
    """Bits of each row."""
    return -np.log2(np.where(active, share, 1 - share))


def _bits(share: np.ndarray | float, active: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Bits of rows of which some are active."""
    return -(active * np.log2(share) + (rows - active) * np.log2(1 - np.asarray(share)))
