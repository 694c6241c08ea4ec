"""What makes a latent fire in one row: its shortest sufficient context, what each token there matters, what may stand in its place.

A window is run as `prefix + tokens`: the first positions of the text, which the row filter skips (attention sinks), stand in front
of every window, as they do in the store. A window over all the rest of the text is therefore the text itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from workflow.n2g.encoding import Text
from workflow.n2g.windows import MEAN, Asked, Window, WindowReader

LENGTHS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128)
"""Contexts are rounded up to these, so that latents at one row share windows."""

Firing = tuple[int, int]
"""(row, latent's place)."""


class Context(NamedTuple):
    """One row taken apart for one latent."""

    row: int
    latent: int
    """Place of the latent among those that are mined together."""
    tokens: Window
    """The cut context; the last is the row's own token."""
    activation: float
    """In the store."""
    kept: float
    """Activation in the cut context / in the store."""
    importance: tuple[float, ...]
    """1 − activation without the token / activation, per token, averaged over replacements."""
    spread: float
    """Largest difference between replacements in what a token matters."""
    substitutes: dict[int, dict[int, float]]
    """Of important places: activation with another token there / activation, by token."""


class Replacing(NamedTuple):
    """What tokens are replaced with."""

    draws: int
    """Random tokens of the text for each place."""
    mean: bool
    fixed: int | None
    seed: int


class Cut(NamedTuple):
    """How long a context must be."""

    length: int
    activation: float
    """In the window of that length."""


def prune(
    reader: WindowReader, text: Text, firings: Mapping[Firing, float], *, skip: int, longest: int, keep: float
) -> dict[Firing, Cut]:
    """The shortest context of every firing that keeps the share `keep` of its activation, rounded up; else the longest.

    Args:
        reader: of the latents of the firings.
        text: of the store.
        firings: activation in the store of each.
        skip: positions at the start of a text that stand in front of every window.
        longest: tokens of a context at most.
        keep: share.
    """
    pivots = sorted({row for row, _ in firings})
    room = {row: min(longest, int(text.pos[row]) - skip + 1) for row in pivots}
    last: dict[int, set[int]] = {}
    for row in pivots:
        for length in lengths(room[row]):
            last.setdefault(row - length + 1, set()).add(row)
    starts = sorted(last)
    asked = [_window(text, start, max(last[start]), skip, sorted(last[start])) for start in starts]
    values: dict[tuple[int, int], np.ndarray] = {}
    for start, found in zip(starts, reader.read(asked), strict=True):
        values |= {(start, row): one for row, one in zip(sorted(last[start]), found, strict=True)}
    cuts = {}
    for row, latent in firings:
        tried = [(length, float(values[row - length + 1, row][latent])) for length in lengths(room[row])]
        enough = (one for one in tried if one[1] >= keep * firings[row, latent])
        cuts[row, latent] = Cut(*next(enough, tried[-1]))
    return cuts


def lengths(room: int) -> list[int]:
    """The lengths that are tried where there is room for so many tokens."""
    return [*(length for length in LENGTHS if length < room), room]


def _window(text: Text, start: int, stop: int, skip: int, rows: Sequence[int]) -> Asked:
    """Prefix and the rows `start` … `stop`, asked at some of them."""
    ids, front = with_prefix(text, start, stop, skip)
    return Asked(ids, tuple(front + row - start for row in rows))


def with_prefix(text: Text, start: int, stop: int, skip: int) -> tuple[Window, int]:
    """Token ids of the rows `start` … `stop` behind the first tokens of their text, and how many those are."""
    begin = start - int(text.pos[start])
    front = text.tokens[begin : begin + skip]
    return (*front.tolist(), *text.tokens[start : stop + 1].tolist()), len(front)


def saliency(
    reader: WindowReader, text: Text, cuts: Mapping[Firing, Cut], *, skip: int, replacing: Replacing
) -> dict[Firing, np.ndarray]:
    """Activation with each token of the cut context replaced / activation, [token, replacement]."""
    pool = text.tokens[text.kept]
    windows = sorted({(row, cut.length) for (row, _), cut in cuts.items()})
    asked, places = [], []
    for row, length in windows:
        ids, front = with_prefix(text, row - length + 1, row, skip)
        for at in range(length):
            for other in replacements(pool, ids[front + at], replacing, row, length - at):
                asked.append(Asked((*ids[: front + at], other, *ids[front + at + 1 :]), (len(ids) - 1,)))
        places.append(len(asked))
    values = reader.read(asked)
    found, start = {}, 0
    for (row, length), stop in zip(windows, places, strict=True):
        found[row, length] = np.concatenate(values[start:stop]).reshape(length, -1, values[0].shape[1])
        start = stop
    return {(row, latent): found[row, cut.length][:, :, latent] / max(cut.activation, 1e-9) for (row, latent), cut in cuts.items()}


def replacements(pool: np.ndarray, own: int, replacing: Replacing, row: int, back: int) -> Iterator[int]:
    """Other tokens for one place; the same ones whatever the length of the context."""
    if replacing.draws:
        draw = np.random.default_rng([replacing.seed, row, back])
        others = [int(token) for token in pool[draw.integers(len(pool), size=4 * replacing.draws)] if token != own]
        yield from [*others, *[own] * replacing.draws][: replacing.draws]
    if replacing.mean:
        yield MEAN
    if replacing.fixed is not None:
        yield replacing.fixed


def substitute(
    reader: WindowReader,
    text: Text,
    cuts: Mapping[Firing, Cut],
    tried: Mapping[Firing, Mapping[int, Sequence[int]]],
    *,
    skip: int,
) -> dict[Firing, dict[int, dict[int, float]]]:
    """Activation with other tokens in important places / activation.

    Args:
        reader: of the latents of the firings.
        text: of the store.
        cuts: contexts.
        tried: by firing, tokens by place in the context.
        skip: as for `prune`.
    """
    asked: dict[tuple[int, int, int, int], Asked] = {}
    for (row, latent), places in tried.items():
        length = cuts[row, latent].length
        ids, front = with_prefix(text, row - length + 1, row, skip)
        for at, tokens in places.items():
            for token in tokens:
                asked[row, length, at, token] = Asked((*ids[: front + at], token, *ids[front + at + 1 :]), (len(ids) - 1,))
    values = dict(zip(asked, reader.read(list(asked.values())), strict=True))
    return {
        (row, latent): {
            at: {token: float(values[row, cuts[row, latent].length, at, token][0, latent]) / max(cuts[row, latent].activation, 1e-9)
                 for token in tokens}
            for at, tokens in places.items()
        }
        for (row, latent), places in tried.items()
    }  # fmt: skip
