"""Single latents on the page: what became of those of base, beside the null chain, and how many changed."""

from matplotlib.axes import Axes

from workflow.frames import Table
from workflow.report.drawing import GREY, Figure, Panel, colour, drawing, stage_axis
from workflow.report.drift_figures import cells, grouped, main_text
from workflow.report.evidence import Evidence
from workflow.report.frames import of_text
from workflow.report.markup import Column, Html, element, folded, joined, missing, number, plain, table
from workflow.report.sections import Gallery, texts

EVENTS = {"rotate": 4, "split": 2, "merge": 3, "born": 0, "die": 1, "unplaced": 5}
"""Events that are drawn, with their colours; those that persist are told in words."""
LINEAGE = ["run", "kind", "layer", "seed", "stage", "event", "count", "null_count"]
KEYS = ("run", "kind", "chain", "seed", "layer", "stage")
COUNTS = {
    "alive": "alive", "reinitialised": "re-initialised", "rates_tested": "rates tested", "rates_changed": "rates changed",
    "rates_confirmed": "confirmed by sign flips", "rates_changed_both": "changed under a threshold, too",
    "rates_stable": "rates stable", "magnitudes_changed": "magnitudes changed", "turned": "turned beyond null", "born": "born",
}  # fmt: skip
DICTIONARY = [
    *(Column(name, name, plain if name in ("seed", "layer") else None) for name in KEYS),
    *(Column(name, label, plain) for name, label in COUNTS.items()),
    Column("born_excess", "beyond null", plain), Column("died", "died", plain), Column("died_excess", "beyond null", plain),
    Column("effective", "2^H", number), Column("effective_low", "low", number), Column("effective_high", "high", number),
    Column("mmcs", "MMCS", number), Column("renaming_gap", "renaming gap", number),
    Column("real_matched_cosine", "matched with real", number),
]  # fmt: skip


def latents_section(evidence: Evidence, gallery: Gallery) -> Html:
    """Lineage and lists of single latents, text sets beyond the headline's folded."""
    parts = [element(
        "p",
        "Rates and magnitudes are those under one SAE that never saw the stage's rows, the SAE of base, or in lines of the chain "
        "null that one: a change there is no refit, and null lines repeat the question instead of being its floor. Tests are "
        "paired by problem and their lists hold at a false discovery rate. Births, deaths and turning are counted beyond those of "
        "the null chain.",
    )]  # fmt: skip
    for text in texts(evidence):
        rows = of_text(evidence.lineage, text)
        drawn = gallery.show(
            lambda text=text: lineage_bars(evidence, text), rows, LINEAGE, f"Lineage, text {text}", "the table has no such rows."
        )
        saes = of_text(evidence.dictionary, text)
        told = table(saes, DICTIONARY, f"Latents of every SAE, text {text}, sinks dropped") if len(saes) else ""
        parts += [drawn, told] if text == main_text(evidence) else [folded(f"Single latents, text set {text}", drawn, told)]
    return joined(parts)


def lineage_bars(evidence: Evidence, text: str) -> Figure:
    """Events between base and each stage, the null chain's as marks."""
    rows = of_text(evidence.lineage, text)
    panels = [(key, _panel(one, key, evidence)) for key, one in cells(rows)]
    seeds = rows["seed"].nunique()
    caption = (
        "What became of the latents of base by each stage. Related latents point alike and fire on the same rows; rotate: one to "
        "one with another direction; split and merge: one to several and several to one; born and die: by all conditions of the "
        "table of latents; unplaced: later latents without a relative that were not born. Latents that persist are not drawn. "
        "Grey marks: as many in the null chain, which never saw another policy; what rises above its mark is not refit. "
        f"Text set {text}" + (f"; means over {seeds} SAE seeds." if seeds > 1 else ".")
    )
    name = "lineage" if text == main_text(evidence) else f"lineage_{text}"
    return Figure(name, f"Lineage, text {text}", caption, grouped(panels), rows)


def _panel(rows: Table, key: tuple[str, str, int], evidence: Evidence) -> Panel:
    run, kind, layer = key
    stages = evidence.ordered(run, list(rows["stage"]))
    means = rows.groupby(["stage", "event"])[["count", "null_count"]].mean()
    with drawing(max(3.5, 1.1 * len(stages) + 1.2), 2.7) as drawn:
        axes = drawn.axes()
        for place, event in enumerate(EVENTS):
            _draw_event(axes, means, stages, event, (place - (len(EVENTS) - 1) / 2) * 0.14)
        _count_axis(axes, float(means.drop("persist", level="event", errors="ignore").max().max()))
        stage_axis(axes, stages)
        axes.grid(visible=False, axis="x")
        axes.set_title(f"layer {layer}")
        axes.set_ylabel("events since base")
        drawn.legend(axes, columns=4)
    last = means.loc[stages[-1]]
    said = ", ".join(f"{event} {_told(one['count'])}{_beside(one['null_count'])}" for event, one in last.iterrows())
    return Panel(f"{run}-{kind}-layer_{layer}", f"Run {run}, layer {layer}, events from base to {stages[-1]}: {said}.", drawn.svg)


def _count_axis(axes: Axes, most: float) -> None:
    """Counts from 0, logarithmic above 10: a few births stand beside hundreds of rotations."""
    steps = [0, 2, 4, 6, 8, *(digit * 10**power for power in range(1, 6) for digit in (1, 3))]
    top = next(step for step in (*steps[1:], most + 1) if step > most)
    axes.set_yscale("symlog", linthresh=10)
    axes.set_yticks([step for step in steps if step <= top], [plain(step) for step in steps if step <= top])
    axes.set_yticks([], minor=True)
    axes.set_ylim(0, top)


def _told(count: float) -> str:
    """A count, or a mean of counts with one digit."""
    return plain(round(float(count), 1))


def _beside(null: float) -> str:
    return "" if missing(null) else f" (null {_told(null)})"


def _draw_event(axes: Axes, means: Table, stages: list[str], event: str, offset: float) -> None:
    found = [(place, means.loc[(stage, event)]) for place, stage in enumerate(stages) if (stage, event) in means.index]
    x = [place + offset for place, _ in found]
    axes.bar(x, [one["count"] for _, one in found], 0.12, color=colour(EVENTS[event]), label=event)
    null = [one["null_count"] for _, one in found]
    label = "null chain" if event == "unplaced" else None
    axes.plot(x, null, linestyle="none", marker="_", markersize=9, markeredgewidth=2, color=GREY, label=label)
