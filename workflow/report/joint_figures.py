"""Figures of what is measured over stages that read the same rows."""

from matplotlib.axes import Axes

from workflow.frames import Table
from workflow.report.drawing import GREY, INK, Figure, Panel, colour, drawing, stage_axis, whole_ticks
from workflow.report.evidence import Evidence
from workflow.report.markup import with_interval

ALIKE = {
    "change_size": "change, share of variance",
    "unlike": "1 − CKA",
    "mean_shift_share": "share of one common shift",
}
"""Measures drawn, with their axes."""


def representation_figure(evidence: Evidence) -> Figure:
    """How far the rows of each stage lie from those of base, per run and text: size of the change, 1 − CKA, common shift."""
    table = since_base(evidence.representation)
    groups = []
    for (run, text), rows in table.groupby(["run", "text"], sort=False):
        panels = [
            _alike_panel(rows[rows["measure"] == measure], f"{run}-{text}-{measure}", label) for measure, label in ALIKE.items()
        ]
        groups.append((f"{run}, text {text}", panels))
    caption = (
        "Rows of each stage beside the rows of base at the same tokens, before any SAE, with intervals by problem (jackknife); one "
        "line per layer. Left: squared change over the variance at base. Middle: 1 − debiased linear CKA, which sees neither a "
        "common shift nor a rotation. Right: how much of the squared change is one shift of all rows. A change that is mostly "
        "shift, with CKA near 1, left the representation's form as it was."
    )
    return Figure("representation", "Rows before any SAE", caption, groups if len(groups) > 1 else [("", groups[0][1])], table)


COUNTS = {
    "new_confirmed": ("new", 2), "gone_confirmed": ("gone", 1), "rotated": ("rotated", 0), "shrunk": ("artefact: shrunk", None),
    "decoupled": ("artefact: decoupled", None),
}  # fmt: skip
"""Classes drawn, with their labels and colours; artefacts are grey."""


def crosscoder_figure(evidence: Evidence) -> Figure:
    """Latents of each class at every later stage, per run and layer."""
    table = evidence.crosscoder
    groups: dict[str, list[Panel]] = {}
    for (run, layer, seed), rows in table.groupby(["run", "layer", "seed"], sort=False):
        panel = _classes_panel(rows.sort_values("update"), f"{run}-layer_{layer}-seed_{seed}", f"layer {layer}, seed {seed}")
        groups.setdefault(f"Run {run}", []).append(panel)
    caption = (
        "One dictionary trained on the rows of all stages at once (BatchTopK crosscoder); its latents at each later stage beside "
        "base, with intervals by problem. New and gone: the decoder row of one of the two stages has all but vanished, and latent "
        "scaling does not find the latent in the other stage. Rotated: both have one, in another direction. Grey: latents that "
        "look like one stage's by their norms, but that the other stage's error (shrunk) or other latents (decoupled) still hold: "
        "artefacts of the training. All other latents are shared. It never saw the chains of SAEs: where the two disagree, "
        "neither is evidence."
    )
    headed = list(groups.items()) if len(groups) > 1 else [("", panels) for panels in groups.values()]
    return Figure("crosscoder", "One dictionary for all stages", caption, headed, table)


def _classes_panel(rows: Table, name: str, title: str) -> Panel:
    with drawing(3.5, 2.8) as drawn:
        axes = drawn.axes()
        stages = list(rows["stage"])
        for number, (column, (label, shade)) in enumerate(COUNTS.items()):
            places = [place + 0.15 * (number - (len(COUNTS) - 1) / 2) for place in range(len(stages))]
            reach = [rows[column] - rows[f"{column}_low"], rows[f"{column}_high"] - rows[column]]
            look = {"color": GREY if shade is None else colour(shade), "hatch": "//" if column == "decoupled" else None}
            axes.bar(places, rows[column], 0.14, label=label, **look)
            axes.errorbar(places, rows[column], yerr=[part.clip(lower=0) for part in reach], fmt="none", ecolor=INK, elinewidth=0.9)
        stage_axis(axes, stages)
        axes.grid(visible=False, axis="x")
        axes.set_title(title)
        axes.set_ylabel("latents")
        drawn.legend(axes)
    last = rows.iloc[-1].to_dict()
    said = ", ".join(f"{label} {with_interval(last, column)}" for column, (label, _) in COUNTS.items())
    return Panel(name, f"{title}, {last['stage']}: of {last['alive']:.0f} living latents {said}.", drawn.svg)


def since_base(table: Table) -> Table:
    """The drawn measures of every stage against base, 1 − CKA in the place of CKA."""
    mine = table[(table["against"] == "base") & table["measure"].isin(["cka", *ALIKE])].copy()
    similar = mine["measure"] == "cka"
    mine.loc[similar, ["value", "low", "high"]] = 1 - mine.loc[similar, ["value", "high", "low"]].to_numpy(dtype=float)
    mine.loc[similar, "measure"] = "unlike"
    named = {"value": "shown", "low": "shown_low", "high": "shown_high"}
    return mine[["run", "text", "layer", "stage", "update", "kl", "measure", *named]].rename(columns=named)


def _alike_panel(rows: Table, name: str, label: str) -> Panel:
    said = []
    with drawing(3.2, 2.6) as drawn:
        axes = drawn.axes()
        axes.axhline(0, color=GREY, linewidth=0.9)
        for index, (layer, line) in enumerate(rows.groupby("layer")):
            ordered = line.sort_values("update")
            draw_with_intervals(axes, ordered, colour(index), f"layer {layer}")
            said.append(f"layer {layer} {with_interval(ordered.iloc[-1].to_dict(), 'shown')}")
        axes.set_xlabel("PPO updates")
        axes.set_ylabel(label)
        whole_ticks(axes)
        drawn.legend(axes)
    return Panel(name, f"{label} at the last stage against base: {'; '.join(said)}.", drawn.svg)


def draw_with_intervals(axes: Axes, rows: Table, shade: str, label: str) -> None:
    """A line over PPO updates with its intervals; where an interval is missing, the point alone."""
    reach = [
        (rows["shown"] - rows["shown_low"]).fillna(0).clip(lower=0),
        (rows["shown_high"] - rows["shown"]).fillna(0).clip(lower=0),
    ]
    axes.errorbar(rows["update"], rows["shown"], yerr=reach, color=shade, marker="o", capsize=2, elinewidth=1.1, label=label)
