"""Which latent of one dictionary is which of another, by direction, and how much farther latents turned than in the null chain.

Cosines are signed: a direction and its opposite are two. Directions need not have norm 1.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from workflow.drift.kinship import BLOCK_ROWS

NEAREST = 16
"""Partners considered for each direction in a round of approximate matching."""


class Matching(NamedTuple):
    """A one-to-one matching of directions; as many pairs as the smaller side has."""

    now: np.ndarray
    """Latent of the later dictionary in each pair, int64, rising."""
    base: np.ndarray
    """Its partner in the earlier one, int64."""
    cosine: np.ndarray
    """Cosine of each pair."""
    exact: bool
    """The sum of cosines is the largest there is; otherwise it is approximate and must be labelled so."""

    @property
    def mean(self) -> float:
        """MCC: mean cosine of the pairs, NaN without pairs."""
        return float(self.cosine.mean()) if len(self.cosine) else float("nan")


class RenamingGap(NamedTuple):
    """How much of the drift of index-aligned directions is a change of names, over latents that both dictionaries use."""

    aligned: float
    """Mean cosine of directions of the same index."""
    matched: float
    """Mean cosine after matching the same latents."""
    gap: float
    """matched − aligned: 0 if the indices match best as they are; not negative if the matching is exact."""
    exact: bool
    """Whether the matching is."""


class CosineExcess(NamedTuple):
    """Per latent, how much farther it turned than latents of the null chain that fire about as often; NaN where left out."""

    excess: np.ndarray
    """(1 − cos) − mean of (1 − cos) over the null latents of its bin."""
    p: np.ndarray
    """(1 + #{null latents of its bin that turned at least as far}) / (1 + n_bin); it cannot fall below 1/(1 + n_bin)."""
    n_bin: np.ndarray
    """Null latents in its bin, int64; 0 where left out."""


def unit(directions: np.ndarray) -> np.ndarray:
    """Directions at norm 1 in float64; one of zeros stays."""
    rows = np.asarray(directions, dtype=np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1.0)


def match(now: np.ndarray, base: np.ndarray, alive_now: np.ndarray, alive_base: np.ndarray, exact_limit: int) -> Matching:
    """One-to-one matching of alive latents with the largest sum of signed cosines.

    Args:
        now: directions of the later dictionary [latent, d_model].
        base: directions of the earlier one.
        alive_now: bool per latent, those that take part.
        alive_base: the same of the earlier one.
        exact_limit: with more alive latents than this on either side the matching is greedy (memory of the exact one: 8·n² bytes).

    Source: Hungarian method, Kuhn 1955; Crouse 2016, IEEE Trans. Aerosp. Electron. Syst. 52, as in scipy.
    """
    mine, theirs = np.flatnonzero(alive_now), np.flatnonzero(alive_base)
    a, b = unit(now[mine]), unit(base[theirs])
    if exact := max(len(mine), len(theirs)) <= exact_limit:
        rows, columns = linear_sum_assignment(a @ b.T, maximize=True)
    else:
        rows, columns = _greedy(a, b)
    return Matching(mine[rows], theirs[columns], (a[rows] * b[columns]).sum(1), exact)


def _greedy(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs taken in the order of falling cosine among each one's nearest, in rounds until a side is used up."""
    partner, free_rows, free_columns = np.full(len(a), -1), np.arange(len(a)), np.arange(len(b))
    while len(free_rows) and len(free_columns):
        rows, columns, cosines = nearest(a[free_rows], b[free_columns], min(NEAREST, len(free_columns)))
        taken_rows, taken_columns = np.zeros(len(free_rows), bool), np.zeros(len(free_columns), bool)
        for place in np.argsort(-cosines, kind="stable"):
            row, column = rows[place], columns[place]
            if not taken_rows[row] and not taken_columns[column]:
                taken_rows[row] = taken_columns[column] = True
                partner[free_rows[row]] = free_columns[column]
        free_rows, free_columns = free_rows[~taken_rows], free_columns[~taken_columns]
    found = np.flatnonzero(partner >= 0)
    return found, partner[found]


def nearest(a: np.ndarray, b: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each row of a the `most` rows of b with the largest products: rows of a (rising), rows of b, products; memory of a block.

    Raises no error where b has fewer rows: then all are given.
    """
    most = min(most, len(b))
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for start in range(0, len(a), BLOCK_ROWS):
        products = a[start : start + BLOCK_ROWS] @ b.T
        columns = (
            np.sort(np.argpartition(-products, most - 1, axis=1)[:, :most], axis=1) if most else np.zeros((len(products), 0), int)
        )
        found.append((columns, np.take_along_axis(products, columns, axis=1)))
    if not found:
        return np.zeros(0, int), np.zeros(0, int), np.zeros(0)
    columns, cosines = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return np.repeat(np.arange(len(a)), most), columns.ravel(), cosines.ravel()


def renaming_gap(now: np.ndarray, base: np.ndarray, alive_in_both: np.ndarray, exact_limit: int) -> RenamingGap:
    """Index-aligned against matched cosine over the latents that are alive in both dictionaries of one chain.

    Args:
        now: directions of the later dictionary [latent, d_model].
        base: directions of the earlier one, the same indices.
        alive_in_both: bool per latent.
        exact_limit: see `match`.
    """
    if not alive_in_both.any():
        return RenamingGap(float("nan"), float("nan"), float("nan"), True)
    aligned = float((unit(now[alive_in_both]) * unit(base[alive_in_both])).sum(1).mean())
    matching = match(now, base, alive_in_both, alive_in_both, exact_limit)
    return RenamingGap(aligned, matching.mean, matching.mean - aligned, matching.exact)


def density_bins(density: np.ndarray, bins: int) -> np.ndarray:
    """Bin of each latent, equally many in each; equal densities share a bin, so there may be fewer. Int64 [latent]."""
    edges = np.quantile(density, np.arange(1, bins) / bins)
    return np.searchsorted(edges, density, side="left")


def cosine_excess(
    turned: np.ndarray, turned_null: np.ndarray, bin_of: np.ndarray, usable: np.ndarray, usable_null: np.ndarray
) -> CosineExcess:
    """How much farther each latent turned than those of the null chain, within bins of how often latents fire.

    Rare latents turn more under re-fit, hence the bins. Latents of both chains go by the index of their common ancestor.

    Args:
        turned: 1 − cosine with the ancestor, in the chain in question [latent].
        turned_null: the same in the null chain.
        bin_of: bin of each latent by how often the ancestor fires, see `density_bins`.
        usable: latents of the chain in question that count: not re-initialised, alive.
        usable_null: the same in the null chain.

    p-values of a bin share its null latents, which makes them dependent in the way that the procedure of Benjamini and Hochberg
    bears. It can list a latent only where 1/(1 + n_bin) ≤ q·listed/tested, so bins must be wide.

    Source: p-values that count the observation, Davison & Hinkley 1997, Bootstrap Methods, §4.2; dependence of those that share
        their null, Bates et al. 2023, Ann. Stat. 51, 149.
    """
    excess, p, n_bin = np.full(len(turned), np.nan), np.full(len(turned), np.nan), np.zeros(len(turned), dtype=np.int64)
    for one in np.unique(bin_of[usable]):
        mine, like = usable & (bin_of == one), np.sort(turned_null[usable_null & (bin_of == one)])
        n_bin[mine] = len(like)
        p[mine] = (1 + len(like) - np.searchsorted(like, turned[mine], side="left")) / (1 + len(like))
        if len(like):
            excess[mine] = turned[mine] - like.mean()
    return CosineExcess(excess, p, n_bin)
