"""Patterns of a latent as a graph: paths from the row's own token to the left, common ends shared; as DOT, and compared."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from workflow.n2g.patterns import shown_element

KEPT, NEW, LOST = "kept", "new", "lost"


class Node(NamedTuple):
    """One token of a graph."""

    label: str
    parent: int | None
    """Number of the node to its right; None of one that stands at the row itself."""
    depth: int
    """0 at the row itself, rising to the left."""
    gap: str
    """What lies between it and the node to its right, "" for nothing."""
    activation: float | None
    """Expected activation / largest one, where a path begins here; else None."""
    state: str
    """`kept`, `new` or `lost` in a comparison; "" in the graph of one stage."""


def telling(patterns: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those that say that a latent is active, which graphs are made of; the others only rank rows."""
    return [pattern for pattern in patterns if pattern.get("says_active", True)]


def graph_of(patterns: Sequence[Mapping[str, Any]], largest: float, states: Mapping[str, str] | None = None) -> list[Node]:
    """Nodes in the order of the patterns, every node behind the one to its right.

    Args:
        patterns: as `formats.n2g` describes them.
        largest: the latent's largest activation.
        states: of a comparison, by `path_of`.
    """
    nodes: list[Node] = []
    known: dict[tuple[int | None, str, str], int] = {}
    for pattern in patterns:
        state = (states or {}).get(path_of(pattern), "")
        at: int | None = None
        gap, depth = "", 0
        for element in reversed(pattern["elements"]):
            if "gap" in element:
                gap = shown_element(element)
                continue
            key = (at, gap, shown_element(element))
            if key not in known:
                known[key] = len(nodes)
                nodes.append(Node(key[2], at, depth, gap, None, state))
            at, gap, depth = known[key], "", depth + 1
            if nodes[at].state not in ("", state):
                nodes[at] = nodes[at]._replace(state=KEPT)
        assert at is not None
        nodes[at] = nodes[at]._replace(activation=pattern["activation"] / max(largest, 1e-12))
    return nodes


def path_of(pattern: Mapping[str, Any]) -> str:
    """A pattern without its gaps, as text: what is compared between stages."""
    return " ".join(shown_element(element) for element in pattern["elements"] if "gap" not in element)


def compared(before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """`kept`, `new` or `lost` of every path of two graphs."""
    old, new = (dict.fromkeys(map(path_of, patterns)) for patterns in (before, now))
    states = {path: KEPT if path in old else NEW for path in new}
    return states | {path: LOST for path in old if path not in new}


def dot(nodes: Sequence[Node], title: str) -> str:
    """The graph in Graphviz's language, read from left to right; thick nodes begin a path."""
    lines = [f"digraph {_quoted(title)} {{", "  rankdir=LR;", "  node [shape=box, style=rounded];"]
    for number, node in enumerate(nodes):
        width = "" if node.activation is None else f", penwidth=2, xlabel={_quoted(f'{node.activation:.2f}')}"
        lines.append(f"  n{number} [label={_quoted(node.label)}{width}];")
    for number, node in enumerate(nodes):
        if node.parent is not None:
            label = f" [label={_quoted(node.gap)}]" if node.gap else ""
            lines.append(f"  n{number} -> n{node.parent}{label};")
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
