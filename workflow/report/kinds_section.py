"""Kinds of SAEs side by side: what they say of the same rows, and whether they agree. Left out where there is one kind."""

import pandas as pd
from matplotlib.axes import Axes

from workflow.frames import Table
from workflow.report.claims import Claim
from workflow.report.drawing import GREY, Figure, Panel, colour, drawing, stage_axis
from workflow.report.drift_figures import main_text
from workflow.report.evidence import Evidence
from workflow.report.frames import of_text
from workflow.report.markup import Column, Html, element, joined, note, number, percent, plain, with_interval
from workflow.report.sections import Gallery, long_table

TERMS = {"shift": "shift", "adaptation": "adaptation", "null_refit": "null refit"}
PLACE = ["run", "layer", "stage"]
ONE = [*PLACE, "kind", "seed"]
ENDS = [f"{term}{end}" for term in TERMS for end in ("", "_low", "_high")]


def kinds_section(evidence: Evidence, found: list[Claim], gallery: Gallery) -> Html:
    """Table, figure and what the kinds agree on; empty where there are fewer than two kinds."""
    if len(dict.fromkeys(evidence.decomposition.get("kind", []))) < 2:
        return joined([])
    if lacking := [name for name in (*ONE, *ENDS) if name not in evidence.decomposition]:
        return note(f"Kinds side by side: left out, the table lacks {', '.join(lacking)}.")
    table = side_by_side(evidence, found)
    at_base = [f"{number(l0)} ({kind})" for kind, l0 in table.groupby("kind", sort=False)["l0_base"].mean().items()]
    lead = (
        "Every kind is trained on the same rows in the same order and measured on the same held-out problems, text "
        f"{main_text(evidence)}, sinks dropped. At base they have {', '.join(at_base)} active latents per row: an SAE with more of "
        "them reconstructs better on any rows, so compare sides and order, and sizes at like l0 alone."
    )
    rows = table.to_dict("records")
    shown = table.assign(**{f"{term}_told": [with_interval(row, term, sign=True) for row in rows] for term in TERMS})
    return joined([
        element("p", lead),
        element("ul", *(element("li", sentence) for sentence in agreement(table))),
        gallery.show(lambda: kinds_figure(evidence, table), table, ["shift_low"], "Kinds side by side", "no stage behind base."),
        long_table(shown, COLUMNS, "What each kind of SAE says of the same rows", "kinds_all"),
    ])  # fmt: skip


def side_by_side(evidence: Evidence, found: list[Claim]) -> Table:
    """One row per run, layer, stage behind base, kind and SAE seed: quality, decomposition, verdict, births and deaths."""
    text = main_text(evidence)
    table = of_text(evidence.decomposition, text)[[*ONE, "update", *ENDS]]
    quality = of_text(evidence.quality, text).reindex(columns=[*ONE, "chain", "nmse", "l0", "dead_share"])
    quality = quality[quality["chain"] == "real"].drop(columns="chain")
    base = quality[quality["stage"] == "base"].drop(columns=["stage", "dead_share"])
    table = table.merge(quality, on=ONE, how="left").merge(
        base, on=["run", "layer", "kind", "seed"], how="left", suffixes=("", "_base")
    )
    counts = evidence.dictionary.reindex(columns=[*ONE, "text", "chain", "born", "born_null", "died", "died_null"])
    counts = counts[(counts["chain"] == "real") & (counts["text"] == text)].drop(columns=["chain", "text"])
    verdicts = pd.DataFrame(
        [(c.run, c.layer, c.stage, c.kind, c.verdict) for c in found if c.text == text], columns=[*PLACE, "kind", "verdict"]
    )
    table = table.merge(counts, on=ONE, how="left").merge(verdicts, on=[*PLACE, "kind"], how="left")
    return table.sort_values(["run", "layer", "update"], kind="stable").reset_index(drop=True)


def agreement(table: Table) -> list[str]:
    """One sentence per run, layer and term: whether the kinds are on one side of 0, and order the stages alike."""
    said = []
    for (run, layer), rows in table.groupby(["run", "layer"], sort=False):
        for term in ("shift", "adaptation"):
            if rows[f"{term}_low"].isna().any():
                said.append(f"Run {run}, layer {layer}, {term}: not measured for every kind.")
                continue
            stages = {stage: {kind: _side(mine, term) for kind, mine in at.groupby("kind", sort=False)}
                      for stage, at in rows.groupby("stage", sort=False)}  # fmt: skip
            parts = [f"{stage} {_sides(sides)}" for stage, sides in stages.items()]
            said.append(f"Run {run}, layer {layer}, {term}: {'; '.join(parts)}{_order(rows, term)}.")
    return said


def _side(rows: Table, term: str) -> str:
    """On which side of 0 the intervals of all SAE seeds lie."""
    if (rows[f"{term}_low"] > 0).all():
        return "above 0"
    return "below 0" if (rows[f"{term}_high"] < 0).all() else "not distinguished from 0"


def _sides(sides: dict[str, str]) -> str:
    if len(set(sides.values())) == 1:
        return f"{next(iter(sides.values()))} in all kinds"
    return "differs between kinds (" + ", ".join(f"{kind} {side}" for kind, side in sides.items()) + ")"


def _order(rows: Table, term: str) -> str:
    """Whether all kinds rank the stages alike by the size of a term, averaged over SAE seeds; empty with one stage."""
    if rows["stage"].nunique() < 2:
        return joined([])
    sizes = rows.groupby(["kind", "stage"], sort=False)[term].mean().abs().unstack()
    orders = {tuple(mine.sort_values().index) for _, mine in sizes.iterrows()}
    if len(orders) > 1:
        return "; the kinds order the stages by size differently"
    return f"; all kinds order the stages by size alike, {' < '.join(next(iter(orders)))}"


def kinds_figure(evidence: Evidence, table: Table) -> Figure:
    """Shift and adaptation of every kind, stage by stage, with their intervals."""
    panels = [
        _panel(rows, term, str(run), int(layer), evidence)
        for (run, layer), rows in table.groupby(["run", "layer"], sort=False) for term in ("shift", "adaptation")
    ]  # fmt: skip
    caption = (
        "Shift (left) and adaptation (right) since base as each kind of SAE measures them on the same rows, with intervals by "
        "problem, one point per SAE seed. Kinds that agree lie on one side of 0 and rise or fall together from stage to stage."
    )
    data = table[[*ONE, "update", "nmse", "l0", *ENDS]]
    return Figure("kinds", "Kinds side by side", caption, [("", panels)], data)


def _panel(rows: Table, term: str, run: str, layer: int, evidence: Evidence) -> Panel:
    stages = evidence.ordered(run, list(rows["stage"]))
    with drawing(3.5, 2.7) as drawn:
        axes = drawn.axes()
        axes.axhline(0, color=GREY, linewidth=0.9)
        for place, (kind, mine) in enumerate(rows.groupby("kind", sort=False)):
            _draw_kind(axes, mine, term, stages, place, str(kind))
        stage_axis(axes, stages)
        axes.grid(visible=False, axis="x")
        axes.set_title(f"layer {layer}")
        axes.set_ylabel(term)
        drawn.legend(axes)
    last = rows[rows["stage"] == stages[-1]].to_dict("records")
    said = "; ".join(f"{row['kind']} {with_interval(row, term, sign=True)}" for row in last)
    return Panel(f"{run}-layer_{layer}-{term}", f"Run {run}, layer {layer}, {term} at {stages[-1]}: {said}.", drawn.svg)


def _draw_kind(axes: Axes, rows: Table, term: str, stages: list[str], place: int, kind: str) -> None:
    for turn, (_, one) in enumerate(rows.dropna(subset=f"{term}_low").groupby("seed", sort=False)):
        x = [stages.index(stage) + 0.16 * (place - 1) + 0.04 * turn for stage in one["stage"]]
        reach = [one[term] - one[f"{term}_low"], one[f"{term}_high"] - one[term]]
        label = kind if turn == 0 else None
        axes.errorbar(
            x, one[term], yerr=reach, color=colour(place), marker="o", markersize=3.5, elinewidth=1.1, capsize=1.5,
            linestyle="none", label=label,
        )  # fmt: skip


COLUMNS = [
    Column("run", "run"), Column("layer", "layer", plain), Column("stage", "stage"), Column("kind", "kind"),
    Column("seed", "SAE seed", plain), Column("nmse_base", "nmse at base", number), Column("nmse", "nmse", number),
    Column("l0_base", "l0 at base", number), Column("l0", "l0", number), Column("dead_share", "dead", percent),
    *(Column(f"{term}_told", f"{said} [interval]") for term, said in TERMS.items()),
    Column("born", "born", plain), Column("born_null", "in null", plain), Column("died", "died", plain),
    Column("died_null", "in null", plain), Column("verdict", "beyond refit?"),
]  # fmt: skip
