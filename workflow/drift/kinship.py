"""Which latents of two dictionaries point alike, from one product of their directions.

Products are taken in float32, who is nearest is read off there, and cosines are then taken anew in float64: only latents whose
cosines are equal to float32 rounding may change places.
"""

from typing import NamedTuple

import numpy as np

BLOCK_ROWS = 1024
"""Directions compared at a time."""
SLACK = 1e-4
"""More than the float32 product of two unit vectors may be off."""
NONE = -1.0
"""Largest cosine with none."""


class Candidates(NamedTuple):
    """Pairs of latents whose directions are alike, sorted by the later latent and then by the earlier one."""

    now: np.ndarray
    """Latent of the later SAE, int64 [pair]."""
    base: np.ndarray
    """Latent of the earlier SAE, int64 [pair]."""
    cosine: np.ndarray
    """Signed cosine of their directions."""

    @property
    def pairs(self) -> np.ndarray:
        """Both latents of each pair: int64 [pair, 2], what `coactivation.coactivation_sums` asks for."""
        return np.stack([self.now, self.base], axis=1)


class Kinship(NamedTuple):
    """The directions of one dictionary beside those of an earlier one."""

    candidates: Candidates
    """Pairs of usable latents."""
    ancestor_cosine: np.ndarray
    """Largest signed cosine of each later latent with an alive earlier one, −1 if there is none."""
    descendant_cosine: np.ndarray
    """The same of each earlier latent with an alive later one."""


def kinship(
    now: np.ndarray, base: np.ndarray, alive_now: np.ndarray, alive_base: np.ndarray, *, usable_now: np.ndarray | None = None,
    min_cosine: float = np.inf, most: int = 1,
) -> Kinship:  # fmt: skip
    """Pairs with a cosine above the bound, among the `most` nearest of either one, and everyone's nearest; memory of a block.

    Args:
        now: directions of the later dictionary at norm 1 [latent, d_model].
        base: those of the earlier one.
        alive_now: bool [latent], whom earlier latents may descend to.
        alive_base: the same of the earlier one.
        usable_now: later latents that may be in a pair, where these are fewer than the alive ones.
        min_cosine: τ, the bound above which births see an ancestor; without it there are no pairs.
        most: nearest latents considered for each latent, in both directions of time; a split into more children is cut short.
    """
    a, b = now.astype(np.float32), base.astype(np.float32)
    pairs = (np.zeros(0, int), np.zeros(0, int), np.zeros(0, np.float32))
    nearest_now, largest = np.zeros(len(b), int), np.full(len(b), -np.inf, np.float32)
    nearest_base = np.zeros(len(a), int)
    for start in range(0, len(a), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        products = a[block] @ b.T
        if len(living := np.flatnonzero(alive_now[block])):
            _raise(products[living], living + start, nearest_now, largest)
        products[:, ~alive_base] = -np.inf
        nearest_base[block] = products.argmax(1) if len(b) else 0
        if np.isfinite(min_cosine):
            products[~(alive_now if usable_now is None else usable_now)[block]] = -np.inf
            pairs = _nearest(pairs, products, start, min_cosine - SLACK, most)
    rows, columns = pairs[0][order := np.lexsort((pairs[1], pairs[0]))], pairs[1][order]
    cosine = _cosines(now, base, rows, columns)
    found = Candidates(*(part[cosine > min_cosine] for part in (rows, columns, cosine)))
    every, each = np.arange(len(a)), np.arange(len(b))
    ancestor = _cosines(now, base, every, nearest_base) if alive_base.any() else np.full(len(a), NONE)
    return Kinship(found, ancestor, _cosines(now, base, nearest_now, each) if alive_now.any() else np.full(len(b), NONE))


def mmcs(largest: np.ndarray, alive: np.ndarray) -> float:
    """Mean of the largest cosines of some latents with those alive in the other dictionary; NaN if a side has none.

    Source: mean maximum cosine similarity, Sharkey, Braun & Millidge 2022, Taking features out of superposition.
    """
    return float(largest.mean()) if len(largest) and alive.any() else float("nan")


def _raise(products: np.ndarray, rows: np.ndarray, nearest: np.ndarray, largest: np.ndarray) -> None:
    """The nearest row of each column so far, in place."""
    best = products.argmax(0)
    values = np.take_along_axis(products, best[None], axis=0)[0]
    better = values > largest
    nearest[better], largest[better] = rows[best[better]], values[better]


def _nearest(
    pairs: tuple[np.ndarray, np.ndarray, np.ndarray], products: np.ndarray, start: int, bound: float, most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pairs so far with those of a block: rows, columns and cosines of those among the `most` nearest of either one."""
    rows, columns = np.nonzero(products > bound)
    found = (rows + start, columns, products[rows, columns])
    rows, columns, cosine = (np.concatenate(parts) for parts in zip(pairs, found, strict=True))
    kept = _among(rows, cosine, most) | _among(columns, cosine, most)
    return rows[kept], columns[kept], cosine[kept]


def _among(latents: np.ndarray, cosine: np.ndarray, most: int) -> np.ndarray:
    """Which pairs are among the `most` of the largest cosine of their latent."""
    order = np.lexsort((-cosine, latents))
    ordered, kept = latents[order], np.zeros(len(latents), bool)
    kept[order] = np.arange(len(latents)) - np.searchsorted(ordered, ordered) < most
    return kept


def _cosines(now: np.ndarray, base: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Cosines of pairs in float64, a block at a time."""
    blocks = (slice(start, start + BLOCK_ROWS) for start in range(0, len(rows), BLOCK_ROWS))
    return np.concatenate([np.zeros(0), *((now[rows[block]] * base[columns[block]]).sum(1) for block in blocks)])
