"""Plots as SVG whose bytes follow from the table alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.table import Line

STYLE: Any = {
    "svg.hashsalt": "saedrift", "svg.fonttype": "none", "font.size": 9, "axes.titlesize": 9.5, "axes.titlelocation": "left",
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True, "grid.alpha": 0.2,
    "legend.frameon": False, "legend.fontsize": 8, "figure.constrained_layout.use": True,
}  # fmt: skip
COLOURS = ("#868b91", "#0072b2", "#009e73", "#d55e00", "#cc79a7", "#e69f00", "#56b4e9")
"""The first is that of the naive update."""
WRONG = "//"
"""Hatching of bars whose gradients are wrong."""


def draw_updates(path: Path, lines: Sequence[Line]) -> None:
    """A bar per contender, as long as its update takes, in one panel per shape and number of threads; hatched: wrong gradients."""
    panels = list(dict.fromkeys((line["shape"], line["threads"]) for line in lines))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7, 0.6 + sum(0.35 + 0.2 * len(_of(lines, *panel)) for panel in panels)))
        heights = [1.6 + len(_of(lines, *panel)) for panel in panels]
        grid = figure.subplots(len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": heights})
        for axes, panel in zip(grid[:, 0], panels, strict=True):
            _bars(axes, _of(lines, *panel))
            axes.set_title(f"{panel[0]}, {panel[1]} thread{'s' if panel[1] != 1 else ''}")
        grid[-1, 0].set_xlabel("milliseconds per update (bar: median; line: quartiles); hatched: wrong gradients")
        _save(figure, path)


def draw_costs(path: Path, lines: Sequence[Line]) -> None:
    """Time and memory of an update against d_sae, one line per contender."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7, 3.2))
        names = list(dict.fromkeys((line["variant"], line["precision"]) for line in lines))
        for axes, column, title in zip(figure.subplots(1, 2), ("ms", "peak_mib"), ("ms per update", "peak MiB"), strict=True):
            for place, name in enumerate(names):
                mine = [line for line in lines if (line["variant"], line["precision"]) == name and line[column] is not None]
                points = [line["d_sae"] for line in mine], [float(line[column]) for line in mine]
                axes.plot(*points, marker="o", markersize=3.5, color=COLOURS[place % len(COLOURS)], label=" ".join(name))
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_title(title)
            axes.set_xlabel("d_sae")
        figure.axes[0].legend()
        _save(figure, path)


def _of(lines: Sequence[Line], shape: str, threads: int) -> list[Line]:
    return [line for line in lines if (line["shape"], line["threads"]) == (shape, threads)]


def _bars(axes: Axes, lines: Sequence[Line]) -> None:
    for place, line in enumerate(lines):
        axes.text(0, place, f" {line['note']}", va="center", fontsize=7) if line["ms"] is None else _bar(axes, place, line)
    axes.set_yticks(range(len(lines)), [f"{line['variant']} {line['precision']}" for line in lines])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")


def _bar(axes: Axes, place: int, line: Line) -> None:
    ms, low, high = (float(line[name]) for name in ("ms", "ms_low", "ms_high"))
    names = ("naive", "torch", "native", "triton")
    own = next((index for index, name in enumerate(names) if line["variant"].startswith(name)), len(names))
    axes.barh(place, ms, color=COLOURS[own], hatch=None if line["gradient_ok"] else WRONG, edgecolor="white", height=0.75)
    axes.plot([low, high], [place, place], color="#24292f", linewidth=1)
    axes.text(high, place, f"  {line['ratio_to_naive']}×", va="center", fontsize=7)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
