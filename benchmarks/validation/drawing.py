"""The picture of the validation: what is claimed where nothing drifts, what is found as more is planted, what intervals hold."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks.validation.coverage import TERMS
from benchmarks.validation.designs import ANGLES, NO_DRIFT
from benchmarks.validation.lines import COVERAGE, FALSE_CLAIMS, Line
from workflow.formats.files import replacing
from workflow.report.drawing import COLOURS, GREY, STYLE

FALSE = {
    "claim gate": "gate: worlds with a claim that passes",
    "ΔNMSE, over rows": "naive: interval of ΔNMSE over rows excludes 0",
    "firing test over rows": "naive: SAEs with such a latent",
}
FOUND = {
    "gate passes": "gate: worlds with a claim that passes",
    "shift > 0": "shift above 0",
    "adaptation < 0": "adaptation below 0",
    "ΔNMSE > 0": "naive: ΔNMSE above 0",
}


def draw(lines: Sequence[Line], path: Path) -> None:
    """Write the figure as SVG whose bytes depend on the lines alone."""
    values = {(line.world, line.metric): line.value for line in lines}
    with mpl.rc_context({**STYLE, "figure.facecolor": "white"}), replacing(path) as temporary:
        figure = Figure(figsize=(12, 3.6), layout="constrained")
        false, found, held = figure.subplots(1, 3)
        _false_claims(false, values)
        _power(found, values)
        _coverage(held, values)
        figure.savefig(temporary, format="svg", metadata={"Date": None})


def _false_claims(axes: Axes, values: dict[tuple[str, str], float]) -> None:
    for place, (name, metric) in enumerate(FALSE.items()):
        at = [number + 0.25 * (place - 1) for number in range(len(NO_DRIFT))]
        heights = [values[f"no drift: {world}", metric] for world in NO_DRIFT]
        axes.bar(at, heights, width=0.23, color=COLOURS[0] if not place else (COLOURS[1], COLOURS[3])[place - 1], label=name)
    axes.axhline(FALSE_CLAIMS, color=GREY, linestyle="--", linewidth=1)
    axes.set_xticks(range(len(NO_DRIFT)), list(NO_DRIFT))
    axes.set_yticks([0, FALSE_CLAIMS, 0.5, 1])
    axes.set(title="Nothing drifts: share that claims", ylim=(0, 1.5))
    axes.legend(loc="upper left")


def _power(axes: Axes, values: dict[tuple[str, str], float]) -> None:
    for colour, (name, metric) in zip((COLOURS[0], COLOURS[2], COLOURS[5], COLOURS[1]), FOUND.items(), strict=True):
        axes.plot(ANGLES, [values[f"rotation {angle:g}", metric] for angle in ANGLES], marker="o", color=colour, label=name)
    axes.set(title="6 of 48 directions turn: share that sees it", xlabel="planted angle, radians", ylim=(-0.02, 1.5))
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.legend(loc="upper left", ncols=2)


def _coverage(axes: Axes, values: dict[tuple[str, str], float]) -> None:
    families = list(dict.fromkeys(world for world, _ in values if world.startswith("coverage: ")))
    names = [(family, term) for family in families for term in TERMS]
    for unit, colour, marker in (("prompts", COLOURS[0], "o"), ("rows", COLOURS[1], "x")):
        prefix = "" if unit == "prompts" else "naive: "
        shares = [values[family, f"{prefix}interval of {term} over {unit} holds the truth"] for family, term in names]
        axes.plot(shares, range(len(names)), linestyle="", marker=marker, color=colour, label=f"over {unit}")
    axes.axvspan(*COVERAGE, color=GREY, alpha=0.2, linewidth=0)
    axes.set_yticks(range(len(names)), [f"{family.removeprefix('coverage: ')}: {term}" for family, term in names], fontsize=6.5)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set(title="95 % intervals: share that holds the truth")
    axes.legend(loc="upper left")
