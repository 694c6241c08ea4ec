"""A pattern graph as SVG: layers from right (the row itself) to left; the same bytes for the same graph."""

import html
from collections.abc import Sequence

from workflow.n2g.graphs import KEPT, LOST, NEW, Node

ROW, BOX, LETTER, SPACE = 30, 22, 7.2, 58
"""Pixels: from one line to the next, height of a box, width of a letter, between layers at least."""
MARGIN = 8
LONGEST = 22
"""Longer labels are cut."""
COLOURS = {KEPT: "#868b91", NEW: "#009e73", LOST: "#d55e00", "": "#0072b2"}
INK = "#24292f"


def layered(nodes: Sequence[Node], title: str) -> str:
    """The drawing as a standalone SVG document.

    Args:
        nodes: each behind the one to its right.
        title: what is shown, for those who do not see it.
    """
    labels = [_cut(node.label) for node in nodes]
    lines = _lines(nodes)
    deepest = max((node.depth for node in nodes), default=0)
    widths = [
        max((_width(labels[at]) for at, node in enumerate(nodes) if node.depth == depth), default=0.0)
        for depth in range(deepest + 1)
    ]
    gaps = [max((_width(node.gap) for node in nodes if node.depth == depth), default=0.0) for depth in range(deepest + 1)]
    right = [0.0] * (deepest + 1)
    for depth in reversed(range(deepest + 1)):
        before = right[depth + 1] + max(SPACE, gaps[depth + 1] + 10) if depth < deepest else MARGIN
        right[depth] = before + widths[depth]
    width, height = right[0] + 44 + MARGIN, ROW * (max(lines, default=0.0) + 1) + 2 * MARGIN
    size = f'width="{0.75 * width:.1f}pt" height="{0.75 * height:.1f}pt" viewBox="0 0 {width:.0f} {height:.0f}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
        f"<title>{html.escape(title)}</title>",
        '<g font-family="DejaVu Sans Mono, monospace" font-size="12">',
    ]
    for at, node in enumerate(nodes):
        if node.parent is not None:
            parts += _edge(
                node, right[node.depth], right[node.depth - 1] - _width(labels[node.parent]), _y(lines[at]), _y(lines[node.parent])
            )
    for at, node in enumerate(nodes):
        parts += _box(node, labels[at], right[node.depth], _y(lines[at]))
    return "\n".join([*parts, "</g>", "</svg>"]) + "\n"


def _lines(nodes: Sequence[Node]) -> list[float]:
    """Line of every node: leaves one below the other, the others in the middle of theirs."""
    children: dict[int | None, list[int]] = {}
    for at, node in enumerate(nodes):
        children.setdefault(node.parent, []).append(at)
    lines = [0.0] * len(nodes)
    free = 0

    def place(at: int) -> float:
        nonlocal free
        below = [place(child) for child in children.get(at, [])]
        if not below:
            free += 1
        lines[at] = (below[0] + below[-1]) / 2 if below else free - 1.0
        return lines[at]

    for root in children.get(None, []):
        place(root)
    return lines


def _y(line: float) -> float:
    return MARGIN + ROW * line + ROW / 2


def _width(label: str) -> float:
    return LETTER * len(label) + 14 if label else 0.0


def _cut(label: str) -> str:
    return label if len(label) <= LONGEST else label[: LONGEST - 1] + "…"


def _edge(node: Node, start: float, end: float, y: float, to: float) -> list[str]:
    colour, middle = COLOURS[node.state], (start + end) / 2
    dash = ' stroke-dasharray="4 3"' if node.state == LOST else ""
    line = (
        f'<path d="M{start:.1f} {y:.1f}C{middle:.1f} {y:.1f} {middle:.1f} {to:.1f} {end:.1f} {to:.1f}" fill="none" '
        f'stroke="{colour}" stroke-width="1.3"{dash}/>'
    )
    if not node.gap:
        return [line]
    said = (
        f'<text x="{middle:.1f}" y="{(y + to) / 2 - 4:.1f}" text-anchor="middle" font-size="10" fill="{INK}">'
        f"{html.escape(node.gap)}</text>"
    )
    return [line, said]


def _box(node: Node, label: str, right: float, y: float) -> list[str]:
    """A box; where a path begins a thick one, at the row itself filled by how active the latent is."""
    width, colour = _width(label), COLOURS[node.state]
    fill = f"{colour}" if node.activation is not None else "none"
    strength = 0.12 + 0.5 * min(max(node.activation or 0.0, 0.0), 1.0) if node.activation is not None else 1.0
    border = 2.2 if node.activation is not None else 1.1
    parts = [
        f'<rect x="{right - width:.1f}" y="{y - BOX / 2:.1f}" width="{width:.1f}" height="{BOX}" rx="5" fill="{fill}" '
        f'fill-opacity="{strength:.2f}" stroke="{colour}" stroke-width="{border}"/>',
        f'<text x="{right - width / 2:.1f}" y="{y + 4:.1f}" text-anchor="middle" fill="{INK}">{html.escape(label)}</text>',
    ]
    if node.activation is not None and node.depth == 0:
        parts.append(f'<text x="{right + 6:.1f}" y="{y + 4:.1f}" font-size="10" fill="{INK}">{node.activation:.2f}</text>')
    return parts
