"""What an explanation says of rows: how active a latent should be, and whether it should be active at all."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from workflow.n2g.encoding import Firings, Text, suffix_keys
from workflow.n2g.patterns import Pattern, from_json, matches, span


class Prediction(NamedTuple):
    """Of every row."""

    score: np.ndarray
    """Expected activation, float32; 0 where the explanation says nothing."""
    fires: np.ndarray
    """Whether the latent should be active, bool."""
    strong: np.ndarray
    """Whether it should be above the share `strong` of its largest activation, bool."""


class Explanation(Protocol):
    """Anything that tells of a latent from tokens."""

    reach: int
    """Tokens, the row's own included, that a prediction looks at."""

    def predict(self, tokens: np.ndarray, pos: np.ndarray) -> Prediction:
        """What it says of rows that stand together by text."""
        ...


class PatternSet:
    """Patterns of a latent: the one of the largest expected activation tells how active, any of those that say so whether."""

    def __init__(self, patterns: Sequence[Mapping[str, Any]], members: Mapping[str, np.ndarray]) -> None:
        """
        Args:
            patterns: as `formats.n2g` describes them.
            members: bool [token] by class.
        """
        read = [(from_json(one["elements"]), one) for one in patterns]
        self._patterns: list[tuple[Pattern, float, bool, bool]] = sorted(
            ((pattern, float(one["activation"]), one["says_active"], one["says_strong"]) for pattern, one in read),
            key=lambda each: each[1],
        )
        self._members = members
        self.reach = max((span(pattern) for pattern, *_ in self._patterns), default=1)

    def predict(self, tokens: np.ndarray, pos: np.ndarray) -> Prediction:
        """What the patterns say of rows that stand together by text."""
        score = np.zeros(len(tokens), dtype=np.float32)
        fires, strong = np.zeros(len(tokens), dtype=bool), np.zeros(len(tokens), dtype=bool)
        for pattern, activation, says_active, says_strong in self._patterns:
            found = matches(pattern, tokens, pos, self._members)
            score[found] = activation
            strong[found] |= says_strong
            fires[found] |= says_active
        return Prediction(score, fires, strong)


class Lookups:
    """Tables of what latents did behind the last n tokens, for n = 1 … `longest`: the baselines that know no patterns."""

    def __init__(self, text: Text, rows: int, longest: int) -> None:
        """
        Args:
            text: of the store on which latents were mined.
            rows: its first rows, on which firings are known.
            longest: n at most.
        """
        self.longest = longest
        kept = text.kept.copy()
        kept[rows:] = False
        self._tables = []
        for length in range(1, longest + 1):
            keys = suffix_keys(text, length)
            known, place = np.unique(keys[kept], return_inverse=True)
            of_row = np.full(len(keys), -1)
            of_row[kept] = place
            self._tables.append((known, of_row, np.bincount(place, minlength=len(known))))

    def of(self, firings: Firings, strong: float) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """(rows, mean activation, share active, share strong) of every context, by length."""
        found = []
        for known, of_row, counts in self._tables:
            place, size = of_row[firings.rows], len(known)
            high = firings.values >= strong * firings.largest
            sums = (np.bincount(place, weights, size) for weights in (firings.values, None, high))
            found.append((counts, *(one / counts for one in sums)))
        return found

    def places(self, text: Text) -> list[np.ndarray]:
        """Where each row's context stands in the tables, by length; −1 of one that was not seen."""
        found = []
        for length, (known, _, _) in enumerate(self._tables, start=1):
            keys = suffix_keys(text, length)
            at = np.minimum(np.searchsorted(known, keys), len(known) - 1)
            found.append(np.where(known[at] == keys, at, -1))
        return found


LEAST_SEEN = 2
"""A longer context speaks only if it was seen so often."""


def looked_up(tables: Sequence[tuple[np.ndarray, ...]], places: Sequence[np.ndarray]) -> Prediction:
    """What the longest known context of each row says.

    Args:
        tables: of one latent, `Lookups.of`, from the shortest context on.
        places: of the rows, `Lookups.places`.
    """
    size = len(places[0])
    score, share, high = (np.zeros(size, dtype=np.float32) for _ in range(3))
    for length, ((counts, mean, active, strong), place) in enumerate(zip(tables, places, strict=True), start=1):
        known = (place >= 0) & (counts[place] >= (1 if length == 1 else LEAST_SEEN))
        at = place[known]
        score[known], share[known], high[known] = mean[at], active[at], strong[at]
    return Prediction(score, share >= 0.5, high >= 0.5)
