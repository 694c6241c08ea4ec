"""Figures of the SAEs: training over epochs, one panel per layer."""

import pandas as pd
from matplotlib.axes import Axes

from workflow.frames import Table
from workflow.report.drawing import GREY, Figure, Panel, colour, drawing, whole_ticks
from workflow.report.evidence import SHARED, Evidence
from workflow.report.markup import number, percent

MEASURES = {
    "nmse": ("held-out nmse", number),
    "l0": ("held-out l0", number),
    "dead_share": ("share of dead latents", percent),
}
HOP_BY_HOP = ("real", "null")
"""Chains whose hops follow one another; the SAEs of `cold` and `repeat` follow none of their own chain."""
FIXED_L0 = ("topk", "topk_signed", "topk_absolute")
"""Kinds whose l0 is k, not drawn."""


def histories_figure(evidence: Evidence) -> Figure:
    """nmse, l0 where it is free, and dead share along the training of each chain; a chain's hops follow one another."""
    histories = laid_end_to_end(evidence)
    groups = []
    for (run, kind), mine in histories.groupby(["run", "kind"], sort=False):
        measures = [name for name in MEASURES if name in mine and not (name == "l0" and kind in FIXED_L0)]
        panels = [_panel(rows, name, str(run), int(layer)) for name in measures for layer, rows in mine.groupby("layer")]
        groups.append((f"{run}, {kind}", [panel._replace(name=f"{run}-{kind}-{panel.name}") for panel in panels]))
    caption = (
        "Training of the SAEs of each layer, epoch by epoch, the hops of a chain laid end to end (base first). Colour: chain real, "
        "trained on each stage's own rows; grey, dashed: chain null, the same updates on rows of base throughout. Dotted lines "
        "separate hops. A fall that goes on in both chains is further training, not a change of the policy."
    )
    return Figure("sae_training", "SAE training", caption, groups if len(groups) > 1 else [("", groups[0][1])], histories)


def laid_end_to_end(evidence: Evidence) -> Table:
    """The histories with `hop` and `epochs_before`, base repeated under each run and chain that starts from it."""
    histories = evidence.histories
    parts = []
    for run in evidence.runs:
        mine = histories[histories["run"].isin([run, SHARED])]
        stages = evidence.ordered(run, list(mine["stage"]))
        for chain in (name for name in dict.fromkeys(mine["chain"]) if name in HOP_BY_HOP):
            members = mine[(mine["chain"] == chain) | (mine["stage"] == "base")]
            for _, rows in members.groupby(["kind", "seed", "layer"]):
                before = 0
                for hop, stage in enumerate(stages):
                    one = rows[rows["stage"] == stage]
                    parts.append(one.assign(run=run, chain=chain, hop=hop, epochs_before=before))
                    before += int(one["epoch"].max()) if len(one) else 0
    return pd.concat([part for part in parts if len(part)], ignore_index=True)


def _panel(rows: Table, measure: str, run: str, layer: int) -> Panel:
    label, show = MEASURES[measure]
    with drawing() as drawn:
        axes = drawn.axes()
        for (chain, seed), line in rows.groupby(["chain", "seed"], sort=False):
            _draw_chain(axes, line, measure, str(chain), int(seed) == rows["seed"].min())
        axes.set_title(f"layer {layer}: {label}")
        axes.set_xlabel("epoch, over all hops")
        whole_ticks(axes)
        drawn.legend(axes)
    ends = [f"{chain}: {show(line[measure].iloc[-1])}" for chain, line in rows.groupby("chain", sort=False)]
    return Panel(
        f"layer_{layer}-{measure}", f"Run {run}, layer {layer}, {label} at the end of training, {', '.join(ends)}.", drawn.svg
    )


def _draw_chain(axes: Axes, line: Table, measure: str, chain: str, labelled: bool) -> None:
    real = chain == "real"
    axes.plot(
        line["epochs_before"] + line["epoch"], line[measure], color=colour(0) if real else GREY, linestyle="-" if real else "--",
        linewidth=1.8 if real else 1.1, zorder=2 if real else 3, label=chain if labelled else None,
    )  # fmt: skip
    for place in sorted(set(line["epochs_before"]) - {0}) if real and labelled else ():
        axes.axvline(place, color=GREY, linewidth=0.9, linestyle=(0, (1, 2)), zorder=0)
