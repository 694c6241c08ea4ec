"""Which patterns explain a latent: each pays for itself in bits, on the rows of the store."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from workflow.n2g.encoding import Firings, Text
from workflow.n2g.patterns import Costs, Element, Gap, Kind, Pattern, Tokens, matches
from workflow.n2g.vocabulary import ANY, CLASSES, Vocabulary

FITTED = 4
"""Of so many of the best candidates the tokens are fitted to the rows, each time that one is chosen."""


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


class Chosen(NamedTuple):
    """The patterns of one latent."""

    patterns: list[Explained]
    covered: np.ndarray
    """Rows that one of them matches, bool [row]."""


class Chooser:
    """Chooses on the rows of one text."""

    def __init__(self, text: Text, vocabulary: Vocabulary, max_gap: int) -> None:
        """
        Args:
            text: the rows.
            vocabulary: classes of tokens.
            max_gap: of loose gaps.
        """
        self._text, self._members = text, vocabulary.members
        self._costs = Costs(text.tokens, vocabulary, max_gap)
        self._kept = int(text.kept.sum())

    def choose(self, candidates: Sequence[Pattern], firings: Firings, *, most: int, strong: float) -> Chosen:
        """Patterns in the order in which they were chosen, greedily, while one saves bits: of all firings, then of strong ones.

        A row whose firing is not explained costs −log₂ of the firing rate, and so does one that a pattern matches while the latent
        is silent; a pattern costs what it takes to write it down (minimum description length, two-part code).
        """
        active = np.zeros(len(self._text.tokens))
        active[firings.rows] = firings.values
        hits = {pattern: self._rows(pattern) for pattern in dict.fromkeys(candidates)}
        gains: dict[Pattern, float] = {}
        for truth in (active > 0, active >= max(strong * firings.largest, 1e-12)):
            gains = self._greedy(hits, truth, most) | gains
        covered, found = np.zeros(len(active), dtype=bool), list[Explained]()
        for pattern, gain in sorted(gains.items(), key=lambda each: -each[1]):
            rows, values = hits[pattern], active[hits[pattern]]
            high = int((values >= strong * firings.largest).sum())
            found.append(Explained(pattern, len(rows), int((values > 0).sum()), high, float(values.mean()), gain))
            covered[rows] = True
        return Chosen(found, covered)

    def _greedy(self, hits: dict[Pattern, np.ndarray], truth: np.ndarray, most: int) -> dict[Pattern, float]:
        """Chosen patterns with the bits that each saved; fitted ones are added to `hits`."""
        bits = -math.log2(max(int(truth.sum()), 1) / max(self._kept, 1)) or 1.0
        worth, found = np.where(truth, bits, -bits), dict[Pattern, float]()
        while len(found) < most and hits:
            gains = {pattern: float(worth[rows].sum()) - self._costs.of(pattern) for pattern, rows in hits.items()}
            best = sorted(gains, key=lambda pattern: -gains[pattern])[:FITTED]
            fitted = {self._fitted(pattern, worth): None for pattern in best}
            hits |= {pattern: self._rows(pattern) for pattern in fitted if pattern not in hits}
            gains |= {pattern: float(worth[hits[pattern]].sum()) - self._costs.of(pattern) for pattern in fitted}
            chosen = max([*best, *fitted], key=lambda pattern: gains[pattern])
            if gains[chosen] <= 0:
                break
            found[chosen] = gains[chosen]
            worth[hits[chosen]] = 0.0
        return found

    def _rows(self, pattern: Pattern) -> np.ndarray:
        return np.flatnonzero(matches(pattern, self._text.tokens, self._text.pos, self._members) & self._text.kept)

    def _fitted(self, pattern: Pattern, worth: np.ndarray) -> Pattern:
        """The pattern with the tokens of each place, from the right, that save bits beside the others."""
        for at, back in _places(pattern):
            rows = self._rows((*pattern[:at], Kind(ANY), *pattern[at + 1 :]))
            ids, place = np.unique(self._text.tokens[rows - back], return_inverse=True)
            gain = np.bincount(place, weights=worth[rows], minlength=len(ids))
            best = self._best_element(ids, gain)
            pattern = pattern if best is None else (*pattern[:at], best, *pattern[at + 1 :])
        return pattern

    def _best_element(self, ids: np.ndarray, gain: np.ndarray) -> Element | None:
        """The tokens that save more bits than they cost, or the class that saves more than they do; None where nothing does."""
        held = {int(token): bits for token, bits in zip(ids, gain, strict=True) if bits > self._costs.token(int(token))}
        options: dict[Element, float] = {}
        if held:
            tokens = Tokens(tuple(held))
            options[tokens] = sum(held.values()) - self._costs.of((tokens,))
        for name in CLASSES:
            options[Kind(name)] = float(gain[self._members[name][ids]].sum()) - self._costs.of((Kind(name),))
        best = max(options, key=lambda element: options[element])
        return best if options[best] > 0 else None


def _places(pattern: Pattern) -> Iterator[tuple[int, int]]:
    """Number of each element of tokens, and how far in front of the row it stands, from the right up to the first loose gap."""
    back = 0
    for at in reversed(range(len(pattern))):
        element = pattern[at]
        if isinstance(element, Gap):
            if element.least != element.most:
                return
            back += element.most
        else:
            if not (isinstance(element, Kind) and element.name == ANY):
                yield at, back
            back += 1
