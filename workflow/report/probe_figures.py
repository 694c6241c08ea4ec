"""Figures of probes: a forest of AUROC by feature set, and maps of probes of one stage on the steps of another."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from workflow.frames import Table
from workflow.report.drawing import GREY, Figure, Panel, colour, drawing
from workflow.report.evidence import Evidence
from workflow.report.markup import number, with_interval
from workflow.report.matrix_figures import draw_map

LOOKS = {
    "sae": (colour(1), "o"),
    "dense": (colour(0), "s"),
    "part": (colour(3), "D"),
    "random": (GREY, "^"),
    "surface": (GREY, "v"),
}
"""Colour and marker of each family, in their order from above."""
FAMILIES = {
    "sae": "SAE codes", "dense": "residual stream", "part": "SAE error, reconstruction", "random": "random directions",
    "surface": "surface",
}  # fmt: skip
AT = ["run", "stage"]


def best_by_set(probes: Table) -> Table:
    """Fitted probes of yes/no labels, of every feature set the model that validates best."""
    fitted = probes[probes["auroc"].notna() & (probes["features"] != "none")]
    ordered = fitted.sort_values("validation", ascending=False, kind="stable")
    return ordered.drop_duplicates([*AT, "layer", "task", "features"]).sort_index()


def forest_figure(evidence: Evidence, best: Table) -> Figure:
    """AUROC with its interval, a line per feature set, a panel per task and layer, a group per stage."""
    groups: dict[str, list[Panel]] = {}
    for key, rows in best.groupby([*AT, "task"], sort=False):
        run, stage, task = map(str, key)
        layers = sorted(rows["layer"].dropna().unique()) or [None]
        for layer in layers:
            shown = rows[(rows["layer"] == layer) | rows["layer"].isna()]
            groups.setdefault(f"{run}, {stage}" if run != "shared" else stage, []).append(_forest(shown, run, stage, task, layer))
    caption = (
        "How well a probe fitted on training problems tells steps with the label from others, on test problems; of every feature "
        "set the model that validates best within the training problems. Intervals by group of near-duplicate problems; dotted: ½, "
        "no knowledge. Orange: codes of SAEs; all others are baselines; the dashed line is the baseline that validates best. Sets "
        "of no layer stand in every panel."
    )
    return Figure("probes", "What features of a step tell of it", caption, list(groups.items()), best)


def _forest(rows: Table, run: str, stage: str, task: str, layer: float | None) -> Panel:
    order = {family: place for place, family in enumerate(LOOKS)}
    rows = rows.assign(order=rows["family"].map(order)).sort_values(["order", "validation"], ascending=[True, False], kind="stable")
    with drawing(4.6, 0.19 * len(rows) + 0.9) as drawn:
        axes = drawn.axes()
        axes.axvline(0.5, color=GREY, linewidth=0.9, linestyle=(0, (1, 2)))
        baselines = rows[rows["family"] != "sae"]
        if len(baselines):
            axes.axvline(float(baselines.loc[baselines["validation"].idxmax(), "auroc"]), color=GREY, linewidth=0.9, linestyle="--")
        for family, (shade, marker) in LOOKS.items():
            _lines(axes, rows, family, shade, marker)
        axes.set_yticks(range(len(rows)), [f"{row.features} · {row.model}" for row in rows.itertuples()], fontsize=7)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel("AUROC on test problems")
        axes.set_title(task if layer is None else f"{task}, layer {layer:g}")
        drawn.legend(axes, columns=2)
    said = "; ".join(f"{row['features']} {with_interval(row, 'auroc')}" for row in rows.to_dict("records"))
    name = f"{run}-{stage}-{task}" + ("" if layer is None else f"-layer_{layer:g}")
    return Panel(name, f"{run} {stage}, {task}: AUROC of {said}.", drawn.svg)


def _lines(axes: Axes, rows: Table, family: str, shade: str, marker: str) -> None:
    places = np.flatnonzero((rows["family"] == family).to_numpy())
    if len(places):
        mine = rows.iloc[places]
        reach = [mine["auroc"] - mine["auroc_low"], mine["auroc_high"] - mine["auroc"]]
        axes.errorbar(
            mine["auroc"], places, xerr=reach, color=shade, marker=marker, linestyle="none", capsize=2, label=FAMILIES[family]
        )


def transfer_figure(evidence: Evidence, transfer: Table) -> Figure:
    """Maps of AUROC by stage of the fit and of the steps; of every view the set that comes first."""
    chosen = {view: _first(rows) for view, rows in transfer.groupby("view", sort=False)}
    data = transfer[[_name(row) == chosen[row.view] for row in transfer.itertuples()]]
    groups: dict[str, list[Panel]] = {}
    for key, rows in data.groupby(["run", "layer", "task", "view"], sort=False):
        run, layer, task, view = key
        panel = _map(evidence, rows, str(run), int(layer), str(task), str(view))
        groups.setdefault(f"{run}, {task}", []).append(panel)
    caption = (
        "Row: the stage whose steps a probe (L2) was fitted to; column: the stage whose test steps it reads. Upper number: AUROC. "
        "Lower number and colour: difference from the stage's own probe, orange above it, blue below. dense: the residual stream; "
        "own: codes of each stage's own SAE; frozen: codes of the SAE of base at every stage. Steps and rows change with the stage "
        "together: what moves may be the text, too."
    )
    return Figure("probe_transfer", "Probes of one stage on the steps of another", caption, list(groups.items()), data)


def _name(row: object) -> str:
    """The name of a set at every stage of its view."""
    features = str(row.features)  # type: ignore[attr-defined]  # a row of the frame
    return features.removeprefix("base_")


def _first(rows: Table) -> str:
    """The last token of the residual stream, the largest codes of a step; else what comes first."""
    names = sorted({_name(row) for row in rows.itertuples()})
    return min(names, key=lambda name: (not name.endswith((".last" if name.startswith("dense") else ".max",)), name))


def _map(evidence: Evidence, rows: Table, run: str, layer: int, task: str, view: str) -> Panel:
    stages = evidence.ordered(run, list(rows["stage"]))
    square: pd.DataFrame = rows.pivot_table(index="fit_stage", columns="stage", values="auroc")
    values = square.reindex(index=stages, columns=stages).to_numpy()
    with drawing(max(3.0, 0.62 * len(stages) + 1.2), max(2.4, 0.5 * len(stages) + 1.1)) as drawn:
        axes = drawn.axes()
        draw_map(axes, values, values - np.diag(values)[None, :], len(stages))
        turned = {"rotation": 40, "ha": "right"} if len(stages) > 3 else {}
        axes.set_xticks(np.arange(len(stages)) + 0.5, stages, **turned)
        axes.set_yticks(np.arange(len(stages)) + 0.5, stages)
        axes.set_xlabel("steps of stage")
        axes.set_ylabel("probe of stage")
        axes.set_title(f"{view}, layer {layer}")
    told = "; ".join(f"{row.fit_stage} on {row.stage} {number(row.auroc)}" for row in rows.itertuples())
    return Panel(f"{run}-{task}-layer_{layer}-{view}", f"Run {run}, {task}, layer {layer}, {view}: AUROC of {told}.", drawn.svg)
