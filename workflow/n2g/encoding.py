"""Where latents fire in a store: one pass over its rows, no language model; memory does not grow with the rows."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sae_core.models.sae import SAE
from workflow.formats.activations import RowFilter, Store, kept_rows

ROWS = 4096
"""Rows that are encoded together."""
CONTEXT = 8
"""Rows whose last so many tokens are the same count as one context."""


class Text(NamedTuple):
    """The tokens of a store, row by row; rows of a text stand together and in order."""

    tokens: np.ndarray
    """int64 [row]."""
    pos: np.ndarray
    """Place in its text, int64 [row]: the text begins `pos` rows before."""
    kept: np.ndarray
    """Whether the row filter keeps it, bool [row]."""


class Firings(NamedTuple):
    """Where one latent is above 0."""

    rows: np.ndarray
    """Rising, int64; of the first `sample` rows of the store."""
    values: np.ndarray
    """float32."""
    top: np.ndarray
    """Rows of its largest activations in the whole store, of distinct contexts, largest first."""
    top_values: np.ndarray
    largest: float
    """In the whole store; 0 of one that never fires."""
    count: int
    """Rows of the whole store on which it is active."""


def text_of(store: Store, keep: RowFilter) -> Text:
    """Tokens and mask of a store that was opened without a row filter."""
    tokens, pos = (store.rows[name].to_numpy().astype(np.int64) for name in ("token", "pos"))
    return Text(tokens, pos, kept_rows(store.rows, keep)[0])


def suffix_keys(text: Text, length: int) -> np.ndarray:
    """A number for the last `length` tokens of every row within its text, equal for equal ones: uint64 [row]."""
    keys = np.zeros(len(text.tokens), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for back in range(min(length, len(keys))):
            moved = np.zeros_like(keys)
            moved[back:] = text.tokens[: len(keys) - back].astype(np.uint64) + np.uint64(1)
            moved[text.pos < back] = 0
            keys = (keys ^ moved) * np.uint64(0x9E3779B97F4A7C15)
            keys ^= keys >> np.uint64(29)
    return keys


@torch.inference_mode()
def firings_of(store: Store, text: Text, sae: SAE, latents: Sequence[int], *, sample_rows: int, candidates: int) -> list[Firings]:
    """Where each latent fires among the kept rows.

    Args:
        store: opened without a row filter.
        text: its tokens.
        sae: on any device.
        latents: whose firings.
        sample_rows: rows, from the first, whose firings are all kept.
        candidates: largest activations that are kept of each latent.
    """
    best, counts = _Best(len(latents), candidates, suffix_keys(text, CONTEXT)), np.zeros(len(latents), dtype=np.int64)
    kept_parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    column = np.full(sae.config.d_sae, -1, dtype=np.int64)
    column[list(latents)] = np.arange(len(latents))
    for batch, where in store.sequential(ROWS):
        which, rows, values = active_entries(sae, batch, column)
        rows += where.start
        mine = text.kept[rows]
        which, rows, values = which[mine], rows[mine], values[mine]
        counts += np.bincount(which, minlength=len(latents))
        best.add(which, rows, values)
        early = rows < sample_rows
        kept_parts.append((which[early], rows[early], values[early]))
    which, rows, values = (np.concatenate(parts) for parts in zip(*kept_parts, strict=True))
    order = np.argsort(which, kind="stable")
    bounds = np.searchsorted(which[order], np.arange(len(latents) + 1))
    found = []
    for at in range(len(latents)):
        mine = order[bounds[at] : bounds[at + 1]]
        top = best.of(at)
        largest = float(top[1][0]) if len(top[1]) else 0.0
        found.append(Firings(rows[mine], values[mine], *top, largest, int(counts[at])))
    return found


def active_entries(sae: SAE, rows: Tensor, column: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(place of the latent, row, activation) of every activation above 0 of the latents whose `column` is not −1."""
    codes = sae.encode(rows.to(sae.W_enc.device)).active()
    which = column[codes.latents.cpu().numpy()]
    values = codes.values.float().cpu().numpy()
    chosen = (which >= 0) & (values > 0)
    return which[chosen], codes.rows().cpu().numpy()[chosen], values[chosen]


class _Best:
    """The largest activations of each latent so far, one per context."""

    def __init__(self, latents: int, most: int, keys: np.ndarray) -> None:
        self._most, self._keys, self._latents = most, keys, latents
        self._which, self._rows, self._values = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)

    def add(self, which: np.ndarray, rows: np.ndarray, values: np.ndarray) -> None:
        which, rows, values = (np.concatenate(pair) for pair in ((self._which, which), (self._rows, rows), (self._values, values)))
        order = np.lexsort((rows, -values, which))
        which, rows, values = which[order], rows[order], values[order]
        _, first = np.unique(np.stack([which.astype(np.uint64), self._keys[rows]]), axis=1, return_index=True)
        first.sort()
        which, rows, values = which[first], rows[first], values[first]
        place = np.arange(len(which)) - np.searchsorted(which, which)
        self._which, self._rows, self._values = (part[place < self._most] for part in (which, rows, values))

    def of(self, latent: int) -> tuple[np.ndarray, np.ndarray]:
        mine = self._which == latent
        return self._rows[mine], self._values[mine]
