"""Figures as SVG: one look, colours that colour-blind people tell apart, text that stays text, bytes from the data alone."""

import contextlib
import io
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from workflow.frames import Table
from workflow.report.markup import Html, csv_link, element, joined, slug

INK = "#24292f"
"""Text and axes; on the page it becomes the page's own text colour, so that figures suit light and dark."""
GREY = "#868b91"
"""The null chain, stage marks and everything else that is reference, readable on light and dark."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#b8a500")
"""Okabe & Ito's palette without black, its yellow darkened for white paper."""
PART_COLOURS = {"shift": "#0072b2", "null_refit": GREY, "adaptation": "#e69f00"}
PIXELS_PER_INCH = 96
SCROLLS_ABOVE = 520
"""Panels wider than this scroll sideways on small screens, narrower ones shrink to fit."""
STYLE: Any = {
    "svg.hashsalt": "saedrift", "svg.fonttype": "none", "text.parse_math": False, "axes.unicode_minus": True,
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 9, "axes.titlesize": 9.5,
    "axes.titleweight": "bold", "axes.titlelocation": "left", "legend.fontsize": 8, "xtick.labelsize": 8, "ytick.labelsize": 8,
    "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.linewidth": 0.7, "xtick.major.width": 0.7, "ytick.major.width": 0.7, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True, "grid.color": INK, "grid.alpha": 0.12,
    "grid.linewidth": 0.7, "axes.facecolor": "none", "figure.facecolor": "none", "savefig.facecolor": "none",
    "legend.frameon": False, "lines.linewidth": 1.6, "lines.markersize": 4.5, "axes.formatter.useoffset": False,
    "axes.formatter.limits": [-4, 5], "legend.handlelength": 1.8,
}  # fmt: skip


class Panel(NamedTuple):
    """One drawing."""

    name: str
    """Name of its file inside the figure."""
    alt: str
    """What it shows, in words, for those who do not see it."""
    svg: str
    """The drawing as a standalone SVG document."""


class Figure(NamedTuple):
    """Panels that are read together, with their data."""

    name: str
    title: str
    caption: str
    """How to read it, in plain words."""
    groups: list[tuple[str, list[Panel]]]
    """Panels under a heading each; an empty heading for a single group."""
    data: Table
    """What is drawn."""


class Drawing:
    """A canvas while it is drawn on; `svg` is set when the block ends."""

    def __init__(self, width: float, height: float) -> None:
        self.canvas = Canvas(figsize=(width, height))
        self.svg = ""

    def axes(self) -> Axes:
        """The canvas's single pair of axes."""
        return self.canvas.add_subplot()

    def legend(self, axes: Axes, columns: int = 3) -> None:
        """What the colours mean, above the axes so that it never covers data."""
        handles, labels = axes.get_legend_handles_labels()
        if labels:
            self.canvas.legend(handles, labels, loc="outside upper left", ncols=columns, columnspacing=1.1, borderaxespad=0.1)


@contextlib.contextmanager
def drawing(width: float = 3.5, height: float = 2.5) -> Iterator[Drawing]:
    """A canvas in the report's look, width and height in inches."""
    with mpl.rc_context(STYLE):
        drawn = Drawing(width, height)
        yield drawn
        ConstrainedLayoutEngine().execute(drawn.canvas)  # once; as the figure's own engine it would run and draw twice
        stream = io.StringIO()
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        drawn.canvas.savefig(stream, format="svg", metadata=nothing)
        drawn.svg = re.sub(r"font-family: [^;\"]*", "font-family: 'DejaVu Sans', Verdana, sans-serif", stream.getvalue())


def colour(index: int) -> str:
    """The colour of the index-th run or seed."""
    return COLOURS[index % len(COLOURS)]


def whole_ticks(axes: Axes) -> None:
    """PPO updates and epochs are whole numbers."""
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def mark_stages(axes: Axes, updates: Sequence[int]) -> None:
    """Dotted lines where stages were saved."""
    for update in updates:
        axes.axvline(update, color=GREY, linewidth=0.9, linestyle=(0, (1, 2)), zorder=0)


def stage_axis(axes: Axes, stages: Sequence[str]) -> None:
    """Stages by name along x, turned where there are many or long ones."""
    crowded = sum(map(len, stages)) > 26
    axes.set_xticks(range(len(stages)), stages, rotation=40 if crowded else 0, ha="right" if crowded else "center")
    axes.set_xlim(-0.6, len(stages) - 0.4)


def inline(panel: Panel, prefix: str) -> Html:
    """The SVG for the page: no prolog, ids unique on the page, its text colour and font, hundredths of a point, a spoken text."""
    body = panel.svg[panel.svg.index("<svg") :]
    width = float(re.search(r'width="([\d.]+)pt"', body)[1]) / 72 * PIXELS_PER_INCH  # type: ignore[index]  # matplotlib writes it
    view = re.search(r'viewBox="([^"]+)"', body)[1]  # type: ignore[index]  # matplotlib writes it
    body = body[body.index(">") + 1 :].replace("</svg>", "")
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)
    referenced = set(re.findall(r"#([\w-]+)(?=[\")])", body))
    body = re.sub(r' id="([\w.-]+)"', lambda found: f' id="{prefix}-{found[1]}"' if found[1] in referenced else "", body)
    body = re.sub(r"url\(#", f"url(#{prefix}-", body).replace('xlink:href="#', f'href="#{prefix}-')
    body = re.sub(r" ?font-family: [^;\"]*;?", "", body)
    body = re.sub(r"<[^>]*>", lambda tag: re.sub(r"\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}", tag[0]), body)
    body = (
        re.sub(r"\s*\n\s*", "\n", body)
        .replace("<defs>\n</defs>\n", "")
        .replace(INK, "currentColor")
        .replace(COLOURS[0], "var(--blue)")
        .replace("</defs>\n<defs>\n", "")
    )
    style = f"width:{width:.0f}px;" + ("" if width > SCROLLS_ABOVE else "max-width:100%")
    return element("svg", Html(body), viewBox=view, role="img", aria_label=panel.alt, style=style)


def shown(figure: Figure) -> Html:
    """A figure as HTML: panels, the caption and its data as a link."""
    groups = []
    for heading, panels in figure.groups:
        inlined = [element("div", inline(panel, slug("f", figure.name, panel.name)), class_="panel") for panel in panels]
        title = [element("h4", heading, id=slug(figure.name, heading))] if heading else []
        groups += [*title, element("div", *inlined, class_="panels")]
    contents = element("nav", *(element("a", h, href=f"#{slug(figure.name, h)}") for h, _ in figure.groups), class_="jump")
    words = element("p", figure.caption, " ", csv_link(figure.data, figure.name))
    caption = element("figcaption", element("h3", figure.title), words)
    jump = contents if len(figure.groups) > 2 else ""
    return element("figure", caption, jump, joined(groups), id=slug("figure", figure.name))


def padded(low: float, high: float, share: float = 0.06) -> tuple[float, float]:
    """Limits of an axis with some air; a constant gets a range, too."""
    span = (high - low) or abs(high) * 0.1 or 1.0
    return (low - share * span, high + share * span) if math.isfinite(span) else (0.0, 1.0)
