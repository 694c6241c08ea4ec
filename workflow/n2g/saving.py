"""Which patterns tell best where a latent is active: each saves more bits than it costs to write down (minimum description length).

Units are the rows of a text, or its steps. Without a pattern each costs −log₂ of how often the latent is active, or silent, on any
unit; with one, −log₂ of how often it is on the units that the pattern matches, and of several patterns that match, the one of the
largest share speaks. A pattern costs the bits that name it among all of its form (two-part code).
"""

import math
from collections.abc import Mapping

import numpy as np

from workflow.n2g.patterns import Costs, Pattern

DOUBT = 0.5
"""So many units of the latent's firing rate are added to those that a pattern matches: few units do not make it sure."""
ENDS = 300
"""Ends of contexts that are tried, those that would save the most bits alone."""
HITS = 1_000_000
"""Matched units of all ends that are weighed together at most: memory and time of a choice do not grow with the store."""


class Saving:
    """Bits that patterns save on the units of one text."""

    def __init__(self, units: int, costs: Costs) -> None:
        """`units`: how many the text has."""
        self._units, self._costs = units, costs

    def share(self, fired: np.ndarray | int, matched: np.ndarray | int, active: np.ndarray) -> np.ndarray:
        """Of units that a pattern matches, how many are expected to be active: between what was seen and the rate."""
        return (np.asarray(fired) + DOUBT * self._rate(active)) / (np.asarray(matched) + DOUBT)

    def alone(self, fired: np.ndarray, matched: np.ndarray, active: np.ndarray) -> np.ndarray:
        """Bits that each of some ends of contexts would save by itself; −∞ where the latent is no likelier than elsewhere.

        Args:
            fired: of the units that each matches, those on which the latent is active.
            matched: units that each matches, at least 1.
            active: whether the latent is active, bool [unit].
        """
        rate, share = self._rate(active), self.share(fired, matched, active)
        saved = _bits(rate, fired, matched) - _bits(share, fired, matched) - np.log2(self._units / matched)
        return np.where(share > rate, saved, -math.inf)

    def greedy(self, hits: Mapping[Pattern, np.ndarray], active: np.ndarray, most: int) -> dict[Pattern, float]:
        """Chosen patterns with the bits that each saved.

        Args:
            hits: units that each candidate matches, at least one.
            active: whether the latent is active, bool [unit].
            most: patterns at most.
        """
        found = dict[Pattern, float]()
        if not hits or not active.any():
            return found
        names, sizes = list(hits), np.array([len(units) for units in hits.values()])
        begins, units = np.concatenate([[0], np.cumsum(sizes)[:-1]]), np.concatenate(list(hits.values()))
        on, expected = active[units], np.full(len(active), self._rate(active))
        shares = self.share(np.add.reduceat(on.astype(np.int64), begins), sizes, active)
        costs = np.array([self._cost(name, size) for name, size in zip(names, sizes.tolist(), strict=True)])
        told = np.repeat(shares, sizes)
        bits = _bits_of_units(told, on)
        while len(found) < most:
            now = expected[units]
            saved = np.add.reduceat(np.where(now < told, _bits_of_units(now, on) - bits, 0.0), begins) - costs
            best = int(saved.argmax())
            if saved[best] <= 0:
                break
            found[names[best]] = float(saved[best])
            mine = hits[names[best]]
            expected[mine] = np.maximum(expected[mine], shares[best])
        return found

    def says(self, hits: Mapping[Pattern, np.ndarray], active: np.ndarray) -> set[Pattern]:
        """Patterns from the share on from which F1 is largest if they say active; of equals the fewest."""
        shares = {name: float(self.share(active[units].sum(), len(units), active)) for name, units in hits.items()}
        said, every, best = np.zeros(len(active), dtype=bool), int(active.sum()), (0.0, math.inf)
        for share in sorted(set(shares.values()), reverse=True):
            for name, units in hits.items():
                if shares[name] == share:
                    said[units] = True
            f1 = 2 * int(active[said].sum()) / (int(said.sum()) + every)
            best = max(best, (f1, share))
        return {name for name, share in shares.items() if share >= best[1]}

    def _rate(self, active: np.ndarray) -> float:
        return (int(active.sum()) + 0.5) / (self._units + 1)

    def _cost(self, pattern: Pattern, matched: int) -> float:
        """Bits that name a pattern among those of its form, more for rarer ones; other tokens of a place cost theirs."""
        return math.log2(self._units / matched) + self._costs.more(pattern)


def _bits_of_units(share: np.ndarray, active: np.ndarray) -> np.ndarray:
    """Bits of each unit."""
    return -np.log2(np.where(active, share, 1 - share))


def _bits(share: np.ndarray | float, active: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Bits of units of which some are active."""
    return -(active * np.log2(share) + (units - active) * np.log2(1 - np.asarray(share)))
