"""Figures of interventions: policies with SAEs in the place of their rows, beside base, and with single latents changed."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from workflow.frames import Table
from workflow.report.drawing import GREY, INK, Figure, Panel, colour, drawing, stage_axis
from workflow.report.drift_figures import cells, grouped
from workflow.report.evidence import Evidence
from workflow.report.markup import with_interval

SPLICED = {
    "real": ("S_t", colour(0), "o", -0.15),
    "frozen": ("S_0, frozen", colour(1), "s", 0.0),
    "null": ("U_t, null", GREY, "^", 0.15),
}
"""Label, colour, marker and place of each SAE."""
LOSSES = {"delta_ce": "ΔCE, nats per token", "recovered_mean": "recovered share (mean ablation)"}
DIVERGENCES = {"kl": ("KL(π_t‖π_0)", colour(0), "o", -0.1), "kl_reverse": ("KL(π_0‖π_t)", colour(1), "s", 0.1)}
GROUPS = {"drifted": (colour(1), "o", -0.2), "random": (GREY, "s", 0.0), "null": (colour(0), "^", 0.2)}
ACTIONS = ("zero", "mean", "steer")
MOVED = ("drifted", "random", "null", "all", "all_null")
Look = tuple[str, str, str, float]


def splice_figure(evidence: Evidence, table: Table, text: str) -> Figure:
    """ΔCE and recovered share per stage, with the SAE of the stage, of base and of the null chain in the place of the rows."""
    data = table[table["text"] == text].copy()
    data["sae"] = [
        "null" if row.chain == "null" else "real" if row.sae_stage == row.stage else "frozen" for row in data.itertuples()
    ]
    panels = []
    for key, rows in cells(data):
        for measure, label in LOSSES.items():
            if not rows[measure].isna().all():
                panels.append((key, _spliced_panel(evidence, rows, key, measure, label)))
    caption = (
        "What the policy of each stage loses on its response tokens when every kept row of the layer is replaced by its "
        "reconstruction; intervals by problem; the grey line is no loss. Blue: the SAE of the stage itself; orange: that of base, "
        "frozen; grey: that of the null chain, trained as long on rows of base. Left ΔCE; right the share of the loss of mean "
        f"ablation that is recovered, which also moves when that loss does: read ΔCE first. Text set {text}."
    )
    return Figure(f"splice_{text}", f"SAEs in the place of the rows, text {text}", caption, grouped(panels), data)


def _spliced_panel(evidence: Evidence, rows: Table, key: tuple[str, str, int], measure: str, label: str) -> Panel:
    run, kind, layer = key
    stages = evidence.ordered(run, list(rows["stage"]))
    with drawing(max(3.5, 0.75 * len(stages) + 1.0), 2.5) as drawn:
        axes = drawn.axes()
        axes.axhline(0 if measure == "delta_ce" else 1, color=GREY, linewidth=0.9)
        for sae, look in SPLICED.items():
            _points(axes, rows[rows["sae"] == sae], stages, measure, look)
        stage_axis(axes, stages)
        axes.set_title(f"layer {layer}")
        axes.set_ylabel(label)
        drawn.legend(axes)
    last = rows[rows["stage"] == stages[-1]].to_dict("records")
    said = "; ".join(f"{SPLICED[row['sae']][0]} {with_interval(row, measure)}" for row in last)
    alt = f"Run {run}, layer {layer}, {label} at {stages[-1]}: {said}."
    return Panel(f"{run}-{kind}-layer_{layer}-{measure}", alt, drawn.svg)


def _points(axes: Axes, rows: Table, stages: list[str], measure: str, look: Look) -> None:
    label, shade, marker, offset = look
    rows = rows.dropna(subset=measure)
    if rows.empty:
        return
    places = [stages.index(stage) + offset for stage in rows["stage"]]
    reach = [rows[measure] - rows[f"{measure}_low"], rows[f"{measure}_high"] - rows[measure]]
    axes.errorbar(places, rows[measure], yerr=reach, color=shade, marker=marker, linestyle="none", capsize=2.5, label=label)


def outputs_figure(evidence: Evidence, table: Table) -> Figure:
    """KL in both directions and the change of entropy, a panel per run, text and measure."""
    panels = []
    for (run, text), rows in table.groupby(["run", "text"], sort=False):
        stages = evidence.ordered(str(run), list(rows["stage"]))
        for name, title, looks in (
            ("kl", "KL, nats per token", DIVERGENCES),
            ("entropy", "change of entropy, nats", {"entropy_change": ("entropy", colour(2), "o", 0.0)}),
        ):
            with drawing(max(3.2, 0.75 * len(stages) + 1.0), 2.4) as drawn:
                axes = drawn.axes()
                axes.axhline(0, color=GREY, linewidth=0.9)
                for measure, look in looks.items():
                    _points(axes, rows, stages, measure, look)
                stage_axis(axes, stages)
                axes.set_title(f"{run}, {text}")
                axes.set_ylabel(title)
                drawn.legend(axes)
            last: Any = rows[rows["stage"] == stages[-1]].to_dict("records")[0]
            said = ", ".join(f"{looks[measure][0]} {with_interval(last, measure)}" for measure in looks)
            panels.append(Panel(f"{run}-{text}-{name}", f"Run {run}, text {text}, {title} at {stages[-1]}: {said}.", drawn.svg))
    caption = (
        "How far the predictions of each stage are from those of base on the same tokens, over the whole vocabulary, per response "
        "token; intervals by problem. In onpolicy the tokens are those that the stage itself wrote, in fixed the reference "
        "solutions."
    )
    return Figure("outputs", "Predictions beside base", caption, [("", panels)], table)


def solving_figure(evidence: Evidence, table: Table) -> Figure:
    """Accuracy under the strict rule per stage, of the policy as it is and with each SAE in the place of the rows."""
    data = table[table["rule"] == "strict"].copy()
    data["sae"] = [
        "null" if row.chain == "null" else "real" if row.sae_stage == row.stage else "frozen" for row in data.itertuples()
    ]
    panels = [(key, _solved_panel(evidence, rows, key)) for key, rows in cells(data)]
    caption = (
        "Share of held-out problems that the policy of each stage answers right (greedy, answer rule strict) as it is (line) and "
        "with every kept row of the layer, of prompt and response alike, replaced by its reconstruction while it writes; intervals "
        "by problem. Blue: the SAE of the stage itself; orange: that of base, frozen; grey: that of the null chain."
    )
    return Figure("solving", "Task accuracy with SAEs in the place of the rows", caption, grouped(panels), data)


def _solved_panel(evidence: Evidence, rows: Table, key: tuple[str, str, int]) -> Panel:
    run, kind, layer = key
    stages = evidence.ordered(run, list(rows["stage"]))
    with drawing(max(3.5, 0.75 * len(stages) + 1.0), 2.5) as drawn:
        axes = drawn.axes()
        own = rows.drop_duplicates("stage").set_index("stage").loc[stages]
        axes.plot(range(len(stages)), own["accuracy"], color=INK, linewidth=1.1, label="as it is")
        for sae, look in SPLICED.items():
            _points(axes, rows[rows["sae"] == sae], stages, "accuracy_spliced", look)
        stage_axis(axes, stages)
        axes.set_title(f"layer {layer}")
        axes.set_ylabel("accuracy, strict")
        drawn.legend(axes)
    last = rows[rows["stage"] == stages[-1]].to_dict("records")
    said = "; ".join(f"{SPLICED[row['sae']][0]} {with_interval(row, 'accuracy_spliced')}" for row in last)
    alt = f"Run {run}, layer {layer}, accuracy at {stages[-1]}: as it is {with_interval(last[0], 'accuracy')}; {said}."
    return Panel(f"{run}-{kind}-layer_{layer}-solving", alt, drawn.svg)


def causal_figure(table: Table, text: str) -> Figure:
    """KL of interventions on latents by group, and how far transplants move base towards the stage."""
    data = table[table["text"] == text]
    panels = []
    for key, rows in cells(data):
        panels.append((key, _acts_panel(rows[rows["action"] != "transplant"], key)))
        panels.append((key, _transplant_panel(rows[rows["action"] == "transplant"], key)))
    caption = (
        "Left: how much the last stage's predictions change (KL, mean over latents, log scale) when one latent is set to 0, to "
        "its mean, or driven at so many times its 95th percentile; thick bars are intervals by problem, thin lines reach from the "
        "least to the largest latent. Orange: latents that turned most beyond refit; grey: random latents that fire as often; "
        "blue: the null chain's. Right: change of KL from stage to base when decoder directions of the stage are put into base; "
        "less than 0 moves base towards the stage. Only what differs from grey and blue is the policy's. "
        f"Text set {text}."
    )
    return Figure(f"causal_{text}", f"What single latents cause, text {text}", caption, grouped(panels), data)


def _acts_panel(rows: Table, key: tuple[str, str, int]) -> Panel:
    run, kind, layer = key
    acts = sorted(
        {(row.action, row.strength) for row in rows.itertuples()}, key=lambda act: (act[0] == "steer", act[0] == "mean", act[1])
    )
    names = [action if action != "steer" else f"×{strength:g}" for action, strength in acts]
    floor = max(float(rows["kl"].max()) * 1e-6, 1e-12)
    with drawing(max(3.5, 0.7 * len(acts) + 1.0), 2.6) as drawn:
        axes = drawn.axes()
        for group, (shade, marker, offset) in GROUPS.items():
            for row in rows[rows["group"] == group].to_dict("records"):
                x = acts.index((row["action"], row["strength"])) + offset
                low, middle, high = (max(floor, row[name]) for name in ("kl_low", "kl", "kl_high"))
                axes.plot([x, x], [max(floor, row["kl_least"]), max(floor, row["kl_most"])], color=shade, linewidth=0.8)
                first = (row["action"], row["strength"]) == acts[0]
                axes.errorbar(x, middle, yerr=[[middle - low], [high - middle]], color=shade, marker=marker, elinewidth=2.2,
                              label=group if first else None)  # fmt: skip
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))  # powers as text, which the page can show
        axes.yaxis.set_minor_formatter(NullFormatter())
        stage_axis(axes, names)
        axes.set_title(f"layer {layer}")
        axes.set_ylabel("KL, nats per token")
        drawn.legend(axes)
    zero = rows[rows["action"] == "zero"].to_dict("records")
    said = "; ".join(f"{row['group']} {with_interval(row, 'kl')}" for row in zero)
    return Panel(
        f"{run}-{kind}-layer_{layer}-latents", f"Run {run}, layer {layer}, KL when a latent is silenced: {said}.", drawn.svg
    )


def _transplant_panel(rows: Table, key: tuple[str, str, int]) -> Panel:
    run, kind, layer = key
    groups = [group for group in MOVED if group in set(rows["group"])]
    with drawing(3.5, 2.6) as drawn:
        axes = drawn.axes()
        axes.axhline(0, color=GREY, linewidth=0.9)
        for row in rows.to_dict("records"):
            shade = GROUPS.get(row["group"], (colour(2), "", 0.0))[0]
            reach = [[row["kl_change"] - row["kl_change_low"]], [row["kl_change_high"] - row["kl_change"]]]
            axes.errorbar(groups.index(row["group"]), row["kl_change"], yerr=reach, color=shade, marker="o", capsize=2.5)
        stage_axis(axes, [group.replace("_", " ") for group in groups])
        axes.set_title(f"layer {layer}")
        axes.set_ylabel("change of KL(π_t‖π_0), nats")
    said = "; ".join(f"{row['group']} {with_interval(row, 'kl_change', sign=True)}" for row in rows.to_dict("records"))
    return Panel(
        f"{run}-{kind}-layer_{layer}-transplant", f"Run {run}, layer {layer}, change of KL by transplants: {said}.", drawn.svg
    )
