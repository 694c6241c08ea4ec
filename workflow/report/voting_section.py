"""Votes of several traces on the page: accuracy over their number and tests against majority. Left out where none were counted."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter, ScalarFormatter

from workflow.frames import Table
from workflow.report.drawing import GREY, INK, Figure, Panel, colour, drawing
from workflow.report.evidence import Evidence
from workflow.report.markup import (
    Column,
    Html,
    csv_link,
    element,
    folded,
    joined,
    note,
    number,
    percent,
    plain,
    table,
    with_interval,
)
from workflow.report.sections import Gallery

POOL = ["run", "stage"]
NAMED = ["scheme", "task", "layer", "features", "model", "aggregation", "tau"]
PLAIN = {"majority": INK, "oracle": GREY, "random": GREY, "confidence": colour(3)}
"""Schemes without a probe that are drawn, with their colours; the others stand in the table."""
DASHES: dict[str, Any] = {"oracle": "--", "random": (0, (1, 2))}
FAMILIES = ("dense", "sae", "ssae", "base_sae", "surface")
"""Families whose best probe is drawn, in the order of their colours."""
LABELS = {"dense": "dense probe", "sae": "SAE probe", "ssae": "step-level SAE probe", "base_sae": "probe on base's SAE",
          "surface": "surface probe"}  # fmt: skip


def voting_section(evidence: Evidence, gallery: Gallery) -> Html:
    """The figure and the tables; empty without votes."""
    made = evidence.voting
    if not made:
        return joined([])
    voting, curves, tests = made["voting"], made["voting_curves"], made["voting_tests"]
    lead = (
        "Each problem is answered by k sampled traces, and the answers vote: equal values are one answer, however they are "
        "written; a trace without an answer votes for nothing. Accuracies are over the problems of the split test, and over all "
        "ways to take k traces of the pool. Weights come from what a probe says of the steps; how they are made of it was chosen "
        "on development problems, and of every family of features the probe that was best there is shown. The oracle is right "
        "where any trace is."
    )
    needed = [*POOL, *NAMED, "family", "headline", "k", "accuracy", "accuracy_low", "accuracy_high"]
    what = "Accuracy over the number of traces"
    parts = [
        element("p", lead),
        gallery.show(lambda: curves_figure(curves), curves, needed, what, "no pool was voted on."),
        *(note(line) for line in _remarks(voting)),
        _table(voting, tests),
    ]
    return joined(parts)


def _remarks(voting: Table) -> list[str]:
    """Pools without probes, traces without answers, and how many tests there are."""
    said = []
    for row in voting[voting["scheme"] == "majority"].to_dict("records"):
        where = f"{row['stage']} of {row['run']}"
        traces = row["problems"] * row["pool"]
        if row["unparsed"]:
            said.append(f"Pool of {where}: {percent(row['unparsed'] / traces)} of {plain(traces)} traces have no answer.")
        if not row["probes"]:
            said.append(f"Pool of {where}: no scores of probes, so no probe votes.")
    return said


def _table(voting: Table, tests: Table) -> Html:
    keys = [*POOL, *NAMED]
    compared = ["k", "p", "q", "holm", "headline_tests", "right_wrong", "wrong_right", "mcnemar_p"]
    every = voting.merge(tests[[*keys, *compared]], on=[*keys, "k"], how="left")
    told = every[every["headline"]].copy()
    for name in ("accuracy", "over_majority"):
        told[f"{name}_shown"] = [
            with_interval(row, name, sign=name != "accuracy", scale=100, unit="%") for row in told.to_dict("records")
        ]
    told["probe"] = [_probe(row) for row in told.to_dict("records")]
    columns = [
        *(Column(name, name) for name in (*POOL, "scheme", "probe")), Column("k", "k", plain),
        Column("accuracy_shown", "accuracy [interval]", str), Column("over_majority_shown", "over majority [interval]", str),
        Column("p", "p", number), Column("holm", "p, Holm", number), Column("right_wrong", "lost", plain),
        Column("wrong_right", "won", plain), Column("mcnemar_p", "p, McNemar", number),
    ]  # fmt: skip
    caption = (
        "Schemes beside majority; p of sign flips by group of problems, Holm over the schemes of the pool in this table; lost and "
        "won: problems with one vote each"
    )
    rest = element("p", csv_link(every, "voting_all"), class_="small")
    return joined([table(told, columns, caption), folded(f"All {plain(len(every))} schemes", rest)])


def _probe(row: dict[str, Any]) -> str | None:
    """A probe in words, None without one."""
    if row["family"] is None or row["family"] != row["family"]:
        return None
    layer = "" if row["layer"] != row["layer"] or row["layer"] is None else f", layer {int(row['layer'])}"
    return f"{row['features']}{layer}, {row['model']}, {row['task']}: {row['aggregation']}, τ {row['tau']:g}"


def curves_figure(curves: Table) -> Figure:
    """Accuracy over k, a panel per pool; a line per scheme."""
    data = curves[curves["headline"] & (curves["scheme"].isin(PLAIN) | (curves["scheme"] == "probe_vote"))]
    panels = [_panel(rows.copy(), str(run), str(stage)) for (run, stage), rows in data.groupby(POOL, sort=False)]
    caption = (
        "Share of problems answered right by votes of k traces, the mean over subsets of the pool. Black: majority, with its "
        "interval by problem as a band; dashed: oracle, right where any trace is; dotted: random weights, the control; colours: "
        "weights by the policy's own confidence and by probes. All lines are of the same problems and subsets, so differences "
        "between them are surer than the band: the table has their intervals."
    )
    return Figure("voting", "Accuracy over the number of traces", caption, [("", panels)], data)


def _panel(rows: Table, run: str, stage: str) -> Panel:
    said = []
    with drawing(4.2, 3.0) as drawn:
        axes = drawn.axes()
        for name, shade in PLAIN.items():
            said += _line(axes, rows[rows["scheme"] == name], name, shade, DASHES.get(name, "-"))
        for place, family in enumerate(FAMILIES):
            shade = colour(place + (place > 2))  # the fourth colour is that of confidence
            said += _line(axes, rows[rows["family"] == family], LABELS[family], shade, "-")
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted(set(rows["k"])))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("traces per vote, k")
        axes.set_ylabel("accuracy")
        axes.set_title(stage if run == "shared" else f"{run}, {stage}")
        drawn.legend(axes)
    alt = f"Run {run}, {stage}, accuracy of votes of {rows['k'].max()} traces: {'; '.join(said)}."
    return Panel(f"{run}-{stage}", alt, drawn.svg)


def _line(axes: Axes, rows: Table, label: str, shade: str, dashes: Any) -> list[str]:
    """Draw one scheme; what it says at the largest k, nothing where it is not there."""
    if rows.empty:
        return []
    rows = rows.sort_values("k")
    if label == "majority":
        axes.fill_between(rows["k"], rows["accuracy_low"], rows["accuracy_high"], color=shade, alpha=0.1, linewidth=0)
    axes.plot(rows["k"], rows["accuracy"], color=shade, linestyle=dashes, marker="o", markersize=2.5, label=label)
    return [f"{label} {with_interval(rows.iloc[-1].to_dict(), 'accuracy')}"]
