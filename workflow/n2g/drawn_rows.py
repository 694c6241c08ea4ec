"""Which rows are taken apart: of every latent some, and rows that serve several latents before others."""

import heapq
from collections import defaultdict
from collections.abc import Sequence

import numpy as np


def shared_rows(candidates: Sequence[np.ndarray], quota: int) -> list[np.ndarray]:
    """Of each latent's candidate rows `quota` (all where there are fewer), chosen so that few rows serve all latents.

    The row that the most latents still want comes next; of equals that of the lowest number.
    """
    wanting: dict[int, set[int]] = defaultdict(set)
    for latent, rows in enumerate(candidates):
        for row in rows.tolist():
            wanting[row].add(latent)
    open_quota = [min(quota, len(rows)) for rows in candidates]
    queue = [(-len(latents), row) for row, latents in wanting.items()]
    heapq.heapify(queue)
    chosen: list[list[int]] = [[] for _ in candidates]
    while queue:
        count, row = heapq.heappop(queue)
        latents = [latent for latent in sorted(wanting[row]) if len(chosen[latent]) < open_quota[latent]]
        if len(latents) < -count:  # counts only fall: it goes back with the right one
            if latents:
                heapq.heappush(queue, (-len(latents), row))
            continue
        for latent in latents:
            chosen[latent].append(row)
    return [np.array(sorted(rows), dtype=np.int64) for rows in chosen]


def drawn(rows: np.ndarray, keys: np.ndarray, count: int, seed: Sequence[int]) -> np.ndarray:
    """Up to `count` random rows of distinct contexts.

    Args:
        rows: to draw from.
        keys: number of the context of every row of the store.
        count: at most.
        seed: of the draw.
    """
    order = np.random.default_rng(list(seed)).permutation(rows)
    _, first = np.unique(keys[order], return_index=True)
    return order[np.sort(first)][:count]
