"""Figures of the policies: PPO and warm-up curves, held-out accuracy."""

from typing import NamedTuple

import pandas as pd
from matplotlib.axes import Axes

from workflow.frames import Table
from workflow.report.drawing import Figure, Panel, colour, drawing, mark_stages, stage_axis, whole_ticks
from workflow.report.evidence import Evidence
from workflow.report.markup import number, percent


class Curve(NamedTuple):
    """One panel of the PPO figure."""

    name: str
    columns: tuple[str, ...]
    """Drawn together, solid, then dashed."""
    title: str


CURVES = (
    Curve("reward", ("reward",), "reward"),
    Curve("accuracy", ("strict", "flexible"), "share right (dashed: flexible rule)"),
    Curve("kl", ("kl",), "KL to the start policy (nats per response)"),
    Curve("entropy", ("entropy",), "entropy (nats per token)"),
    Curve("length", ("response_tokens",), "response length (tokens)"),
    Curve("finished", ("finished",), "share finished"),
)
DASHES = ("-", (0, (3, 1.5)))


def running_mean(values: Table) -> Table:
    """Centred mean over about a tenth of the curve, at least three updates."""
    window = max(3, len(values) // 10) | 1
    return values.rolling(window, center=True, min_periods=1).mean()


def by_update(curves: Table, run: str) -> Table:
    """One run's curve over all its stages, an update once."""
    return curves[curves["run"] == run].drop_duplicates("update", keep="last").sort_values("update")


def ppo_figure(evidence: Evidence) -> Figure:
    """Small multiples of the PPO curves, one line per run."""
    curves = evidence.curves
    runs = [run for run in evidence.runs if run in set(curves["run"])]
    panels = []
    for curve in CURVES:
        if not [name for name in curve.columns if name in curves]:
            continue
        with drawing() as drawn:
            axes = drawn.axes()
            for index, run in enumerate(runs):
                _draw_run(axes, by_update(curves, run), curve, colour(index), run)
            mark_stages(axes, sorted(set(curves.groupby(["run", "stage"])["update"].max())))
            axes.set_title(curve.title)
            axes.set_xlabel("PPO update")
            whole_ticks(axes)
            drawn.legend(axes)
        panels.append(Panel(curve.name, _spoken(curve, curves, runs), drawn.svg))
    caption = (
        "Each panel follows one quantity of the rollouts over the updates of PPO, one colour per run. Faint: every update; "
        "strong: a running mean over a tenth of the curve. Dotted vertical lines: a stage was saved and examined. Rollouts are "
        "sampled from training problems; the held-out accuracy is the next figure."
    )
    return Figure("ppo_curves", "PPO training", caption, [("", panels)], curves)


def _draw_run(axes: Axes, curve: Table, what: Curve, shade: str, run: str) -> None:
    for name, dash in zip(what.columns, DASHES, strict=False):
        if name in curve:
            axes.plot(curve["update"], curve[name], color=shade, linewidth=0.8, alpha=0.28, linestyle=dash)
            axes.plot(
                curve["update"],
                running_mean(curve[name]),
                color=shade,
                linestyle=dash,
                label=run if name == what.columns[0] else None,
            )


def _spoken(curve: Curve, curves: Table, runs: list[str]) -> str:
    said = []
    for run in runs:
        for name in curve.columns:
            if name in curves and len(values := by_update(curves, run)[name].dropna()):
                quarter = max(1, len(values) // 4)
                first, last = values.iloc[:quarter].mean(), values.iloc[-quarter:].mean()
                said.append(
                    f"{run}: {name} goes from {number(first)} in the first quarter of updates to {number(last)} in the last"
                )
    return f"Lines of {curve.title} over PPO updates. {'; '.join(said)}."


def warmup_figure(evidence: Evidence) -> Figure:
    """The loss of the format warm-up, and whatever else its curve holds."""
    curve = evidence.warmup
    names = [name for name in curve.columns if name != "update" and pd.api.types.is_numeric_dtype(curve[name])]
    panels = []
    for name in names:
        with drawing() as drawn:
            axes = drawn.axes()
            axes.plot(curve["update"], curve[name], color=colour(0), marker="o")
            axes.set_title(f"warm-up: {name}")
            axes.set_xlabel("optimiser step")
            whole_ticks(axes)
        alt = f"Warm-up {name}: {number(curve[name].iloc[0])} at the first step, {number(curve[name].iloc[-1])} at the last."
        panels.append(Panel(name, alt, drawn.svg))
    caption = "The short supervised format warm-up on reference solutions, whose result is the stage `base`."
    return Figure("warm_up", "Format warm-up", caption, [("", panels)], curve)


def greedy_figure(evidence: Evidence, accuracy: Table) -> Figure:
    """Held-out greedy accuracy of every stage with intervals, a panel per run."""
    panels = []
    top = min(1.0, float(accuracy[["strict_high", "flexible_high"]].max().max()) * 1.12 + 0.02)
    for run, rows in accuracy.groupby("run", sort=False):
        with drawing(max(3.5, 0.62 * len(rows) + 1.1), 2.6) as drawn:
            axes = drawn.axes()
            for offset, rule, shade, marker in ((-0.1, "strict", colour(0), "o"), (0.1, "flexible", colour(1), "s")):
                _draw_points(axes, rows, rule, offset, shade, marker)
            stage_axis(axes, list(rows["stage"]))
            axes.set_ylim(0, top)
            axes.set_title(str(run))
            axes.set_ylabel("greedy accuracy")
            drawn.legend(axes)
        said = "; ".join(f"{row.stage} {percent(row.strict)} strict, {percent(row.flexible)} flexible" for row in rows.itertuples())
        panels.append(Panel(str(run), f"Held-out greedy accuracy of run {run}: {said}.", drawn.svg))
    caption = (
        "Share of held-out test problems that each stage answers right when it decodes greedily: strict = in the demanded format, "
        "flexible = the right number anywhere at the end. Bars are bootstrap intervals over problems. Stages answer the same "
        "problems, so two bars may overlap and still differ: the table gives the paired difference from base."
    )
    return Figure("greedy_accuracy", "Held-out accuracy", caption, [("", panels)], accuracy)


def _draw_points(axes: Axes, rows: Table, rule: str, offset: float, shade: str, marker: str) -> None:
    places = [index + offset for index in range(len(rows))]
    reach = [rows[rule] - rows[f"{rule}_low"], rows[f"{rule}_high"] - rows[rule]]
    axes.errorbar(places, rows[rule], yerr=reach, color=shade, marker=marker, linestyle="none", capsize=2.5, label=rule)
