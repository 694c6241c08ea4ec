"""Figures of drift: the curve against the null chain, and what its change is made of."""

from collections.abc import Iterator
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from workflow.frames import Table
from workflow.report.drawing import GREY, PART_COLOURS, Figure, Panel, colour, drawing, padded, stage_axis, whole_ticks
from workflow.report.evidence import Evidence
from workflow.report.frames import of_text
from workflow.report.markup import with_interval

PARTS = {"shift": "shift", "null_refit": "null refit", "adaptation": "adaptation"}
CURVE_COLUMNS = {"chain", "sae_stage", "store_stage", "nmse", "nmse_low", "nmse_high"}


def cells(table: Table) -> Iterator[tuple[tuple[str, str, int], Table]]:
    """(run, kind, layer) and the rows of that cell, layer by layer inside a run and kind."""
    for (run, kind, layer), rows in table.groupby(["run", "kind", "layer"], sort=False):
        yield (str(run), str(kind), int(layer)), rows


def grouped(panels: list[tuple[tuple[str, str, int], Panel]]) -> list[tuple[str, list[Panel]]]:
    """Panels by run and kind, layers rising; no heading when there is one group only."""
    groups: dict[str, list[tuple[int, Panel]]] = {}
    for (run, kind, layer), panel in panels:
        groups.setdefault(f"{run}, {kind}", []).append((layer, panel))
    ordered = [(heading, [panel for _, panel in sorted(group, key=lambda one: one[0])]) for heading, group in groups.items()]
    return ordered if len(ordered) > 1 else [("", panels) for _, panels in ordered]


def drift_curves(evidence: Evidence, text: str) -> Figure:
    """nmse over PPO updates per layer: real, frozen, and the null chain as a band."""
    table = of_text(evidence.transfer, text)
    updates = {(run, stage): evidence.update(run, stage) for run, stage in set(zip(table["run"], table["sae_stage"], strict=True))}
    table = table.assign(line=[_line(row) for row in table.itertuples()])
    moved = [row.store_stage if row.line == "frozen" else row.sae_stage for row in table.itertuples()]
    table["update"] = [updates.get((run, stage)) for run, stage in zip(table["run"], moved, strict=True)]
    data = _with_base(table[table["line"] != ""])
    panels = []
    for key, rows in cells(data.dropna(subset="update")):
        panels.append((key, _curve_panel(rows.sort_values("update"), key)))
    caption = (
        "Reconstruction error (nmse, lower is better) on held-out problems along the run, with intervals by problem. Blue, solid: "
        "each stage's SAE on its own policy's rows. Orange, dashed: the SAE of base, frozen, on the same rows: its rise is what "
        "the policy moved. Grey band: null chain, SAEs trained as long on rows of base, scored on base (line with interval) and, "
        f"dotted, on the stage's own rows. Real below the dotted line: the SAE adapted to the policy. Text set {text}."
    )
    name = "drift_curves" if text == main_text(evidence) else f"drift_curves_{text}"
    return Figure(name, f"Drift curves, text {text}", caption, grouped(panels), data.drop(columns="sinks", errors="ignore"))


def main_text(evidence: Evidence) -> str:
    """The text set of the headline: `fixed`, else the one the SAEs are trained on, else the first."""
    texts = list(dict.fromkeys(evidence.quality["text"])) if "text" in evidence.quality else []
    wanted = ["fixed", evidence.study.get("saes", {}).get("text"), *texts]
    return next((text for text in wanted if text in texts), "fixed")


def _line(row: Any) -> str:
    if row.chain == "real" and row.sae_stage == row.store_stage:
        return "real"
    if row.chain == "null":
        return "null on base" if row.store_stage == "base" else "null on stage" if row.store_stage == row.sae_stage else ""
    return "frozen" if row.chain == "real" and row.sae_stage == "base" else ""


def _with_base(table: Table) -> Table:
    """Every line starts at S_0 on X_0, which the table holds once."""
    base = table[(table["sae_stage"] == "base") & (table["store_stage"] == "base")]
    lines = [line for line in dict.fromkeys(table["line"]) if line != "real"]
    return pd.concat([*(base.assign(line=line) for line in lines), table], ignore_index=True)


def _curve_panel(rows: Table, key: tuple[str, str, int]) -> Panel:
    run, kind, layer = key
    with drawing(3.5, 2.7) as drawn:
        axes = drawn.axes()
        for index, (_, one) in enumerate(rows.groupby("seed")):
            _draw_lines(axes, one, index == 0)
        axes.set_title(f"layer {layer}")
        axes.set_xlabel("PPO updates")
        axes.set_ylabel("nmse")
        whole_ticks(axes)
        drawn.legend(axes, columns=2)
    ends = rows.groupby("line", sort=False).tail(1).to_dict("records")
    said = "; ".join(f"{end['line']} {with_interval(end, 'nmse')}" for end in ends)
    return Panel(f"{run}-{kind}-layer_{layer}", f"Run {run}, layer {layer}, nmse at the last stage: {said}.", drawn.svg)


def _draw_lines(axes: Axes, rows: Table, labelled: bool) -> None:
    looks = {
        "null on base": ("null on base", GREY, "-", 0.28, 1.0), "null on stage": ("null on stage", GREY, ":", 0.0, 1.3),
        "frozen": ("base, frozen", colour(1), "--", 0.12, 1.3), "real": ("real", colour(0), "-", 0.22, 1.8),
    }  # fmt: skip
    for line, (label, shade, dash, opacity, width) in looks.items():
        one = rows[rows["line"] == line]
        if one.empty:
            continue
        if opacity:
            axes.fill_between(one["update"], one["nmse_low"], one["nmse_high"], color=shade, alpha=opacity, linewidth=0)
        axes.plot(
            one["update"], one["nmse"], color=shade, linestyle=dash, linewidth=width, marker="o" if line == "real" else None,
            label=label if labelled else None,
        )  # fmt: skip


def decomposition_bars(evidence: Evidence, text: str) -> Figure:
    """Stacked bars of shift, null refit and adaptation, each part again with its interval beside them."""
    table = of_text(evidence.decomposition, text)
    panels = [(key, _bars_panel(rows, key, evidence)) for key, rows in cells(table)]
    seeds = table["seed"].nunique() if "seed" in table else 1
    caption = (
        "What the change of nmse since base is made of. Stacked bar: shift (SAE of base frozen, rows moved), null refit (what as "
        "much training on base rows does), adaptation (what training on the moved rows does beyond that); up is worse, down is "
        "better; the diamond is their sum, the change a chain alone would report. Right of each bar the same parts from 0 with "
        f"their intervals by problem: a part whose interval crosses 0 is not distinguished from none. Text set {text}"
        + (f"; bars are means over {seeds} SAE seeds, one interval is drawn per seed." if seeds > 1 else ".")
    )
    name = "decomposition" if text == main_text(evidence) else f"decomposition_{text}"
    return Figure(name, f"Shift, refit, adaptation, text {text}", caption, grouped(panels), table)


def _bars_panel(rows: Table, key: tuple[str, str, int], evidence: Evidence) -> Panel:
    run, kind, layer = key
    stages = evidence.ordered(run, list(rows["stage"]))
    parts = [part for part in PARTS if part in rows and not rows[part].isna().all()]
    with drawing(max(3.5, 0.75 * len(stages) + 1.0), 2.7) as drawn:
        axes = drawn.axes()
        axes.axhline(0, color=GREY, linewidth=0.9)
        for place, stage in enumerate(stages):
            _draw_stage(axes, rows[rows["stage"] == stage], place, parts, place == 0)
        stage_axis(axes, stages)
        axes.grid(visible=False, axis="x")
        axes.set_title(f"layer {layer}")
        axes.set_ylabel("change of nmse")
        axes.set_ylim(*padded(*axes.dataLim.intervaly))
        drawn.legend(axes, columns=4)
    said = "; ".join(
        f"{row['stage']}: " + ", ".join(f"{PARTS[part]} {with_interval(row, part, sign=True)}" for part in parts)
        for row in rows[rows["stage"] == stages[-1]].to_dict("records")
    )
    return Panel(f"{run}-{kind}-layer_{layer}", f"Run {run}, layer {layer}, {said}.", drawn.svg)


def _draw_stage(axes: Axes, rows: Table, place: int, parts: list[str], labelled: bool) -> None:
    top = bottom = 0.0
    for position, part in enumerate(parts):
        height = float(rows[part].mean())
        start = top if height >= 0 else bottom
        shade = PART_COLOURS[part]
        axes.bar(place - 0.2, height, 0.36, bottom=start, color=shade, label=PARTS[part] if labelled else None)
        top, bottom = (top + height, bottom) if height >= 0 else (top, bottom + height)
        for turn, row in enumerate(rows.to_dict("records")):
            x = place + 0.1 + 0.13 * position + 0.03 * (turn - (len(rows) - 1) / 2)
            reach = [[row[part] - row[f"{part}_low"]], [row[f"{part}_high"] - row[part]]]
            axes.errorbar(x, row[part], yerr=reach, color=shade, marker="o", markersize=3, elinewidth=1.1, capsize=1.5)
    if "delta" in rows:
        axes.plot(place - 0.2, rows["delta"].mean(), "D", color="#ffffff", markeredgecolor="#24292f", markersize=5,
                  label="sum" if labelled else None)  # fmt: skip
