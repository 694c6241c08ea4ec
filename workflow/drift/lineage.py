"""What became of each latent between two stages: persist, rotate, split, merge, born, die, one event per row.

Latents are related where their directions are alike **and** they fire together on paired rows: directions alone relate latents
that never fire on the same row, activations alone relate latents that merely accompany each other.
"""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from workflow.drift.kinship import Candidates

EVENTS = ("persist", "rotate", "split", "merge", "born", "die")
"""The kinds of events, in the order of the table."""


class Event(NamedTuple):
    """What became of some latents."""

    event: str
    """persist: one to one, cosine ≥ the bound; rotate: one to one below it; split: one to several; merge: several to one."""
    parents: tuple[int, ...]
    """Latents of the earlier SAE, rising; none of one that was born."""
    children: tuple[int, ...]
    """Latents of the later SAE, rising; none of one that died."""
    cosine: float
    """Least cosine of direction between a parent and a child of the event; NaN without both."""
    correlation: float
    """Least correlation of activation between them on paired rows; NaN without both."""

    def row(self) -> dict[str, str | float | None]:
        """The event as a row of a table: latents in one text with spaces between them, NaN as null."""
        named = {"parents": " ".join(map(str, self.parents)), "children": " ".join(map(str, self.children))}
        known = {
            name: None if np.isnan(value) else value for name, value in (("cosine", self.cosine), ("correlation", self.correlation))
        }
        return {"event": self.event, **named, **known}


class Lineage(NamedTuple):
    """All events between two stages, and whom they leave out."""

    events: list[Event]
    """Sorted by kind, then by latents."""
    unplaced_now: np.ndarray
    """Usable later latents in no event: neither related to an earlier one nor born by all conditions; int64."""
    unplaced_base: np.ndarray
    """Usable earlier latents in no event."""

    def counts(self) -> dict[str, int]:
        """Events of each kind."""
        found = Counter(one.event for one in self.events)
        return {kind: found[kind] for kind in EVENTS}


def lineage(
    found: Candidates,
    correlation: np.ndarray,
    *,
    usable_now: np.ndarray,
    usable_base: np.ndarray,
    born: np.ndarray,
    died: np.ndarray,
    min_correlation: float,
    persist_cosine: float,
) -> Lineage:
    """The events between two stages.

    A pair is related if cosine and correlation are above their bounds; each latent keeps the relative it correlates with most.

    Args:
        found: pairs whose directions are alike.
        correlation: of the activations of each pair on paired rows, `coactivation.correlations`; NaN relates nobody.
        usable_now: latents of the later SAE that take part: alive and not re-initialised.
        usable_base: the same of the earlier SAE.
        born: later latents born by all conditions, `births.births`.
        died: earlier latents that died, `births.deaths`.
        min_correlation: least correlation of relatives.
        persist_cosine: least cosine at which one to one counts as persisting.

    Source: the events are those of clusters that evolve, Palla, Barabási & Vicsek 2007, Nature 446, 664.
    """
    related = np.flatnonzero(np.nan_to_num(correlation, nan=-np.inf) >= min_correlation)
    edges = {(int(found.base[i]), int(found.now[i])): Likeness(found.cosine[i], correlation[i]) for i in related}
    parents, children = _relatives(edges)
    events = [_event("split", (j,), many, edges) for j, many in children.items() if len(many) > 1]
    events += [_event("merge", many, (i,), edges) for i, many in parents.items() if len(many) > 1]
    for i, (j, *others) in parents.items():
        if not others and len(children[j]) == 1:
            events.append(_event("persist" if edges[j, i].cosine >= persist_cosine else "rotate", (j,), (i,), edges))
    events += [_event("born", (), (i,), edges) for i in np.flatnonzero(born & usable_now).tolist() if i not in parents]
    events += [_event("die", (j,), (), edges) for j in np.flatnonzero(died & usable_base).tolist() if j not in children]
    events.sort(key=lambda one: (EVENTS.index(one.event), one.parents, one.children))
    placed = {i for one in events for i in one.children}, {j for one in events for j in one.parents}
    return Lineage(events, _others(usable_now, placed[0]), _others(usable_base, placed[1]))


class Likeness(NamedTuple):
    """How alike two latents are."""

    cosine: float
    """Of their directions."""
    correlation: float
    """Of their activations."""


Edges = Mapping[tuple[int, int], Likeness]
"""By parent and child."""


def _relatives(edges: Edges) -> tuple[dict[int, tuple[int, ...]], dict[int, tuple[int, ...]]]:
    """Parents of each later and children of each earlier latent: a pair counts where either is the other's best."""
    best_parent: dict[int, int] = {}
    best_child: dict[int, int] = {}
    for j, i in sorted(edges, key=lambda edge: (-edges[edge].correlation, -edges[edge].cosine, edge)):
        best_parent.setdefault(i, j)
        best_child.setdefault(j, i)
    kept = sorted({(j, i) for i, j in best_parent.items()} | set(best_child.items()))
    parents: dict[int, tuple[int, ...]] = {}
    children: dict[int, tuple[int, ...]] = {}
    for j, i in kept:
        parents[i] = (*parents.get(i, ()), j)
        children[j] = (*children.get(j, ()), i)
    return parents, children


def _event(kind: str, parents: tuple[int, ...], children: tuple[int, ...], edges: Edges) -> Event:
    between = [edges[j, i] for j in parents for i in children]
    least = [float(min(values)) for values in zip(*between, strict=True)] or [float("nan")] * 2
    return Event(kind, parents, children, *least)


def _others(usable: np.ndarray, placed: set[int]) -> np.ndarray:
    return np.array([i for i in np.flatnonzero(usable).tolist() if i not in placed], dtype=np.int64)


def subtracted(real: Mapping[str, int], null: Mapping[str, int]) -> dict[str, int]:
    """Events of each kind beyond those of the null chain; it may be negative."""
    return {kind: count - null[kind] for kind, count in real.items()}
