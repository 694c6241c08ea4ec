"""Figures of the transfer matrix and of the turning of decoder directions."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize

from workflow.frames import Table
from workflow.report.drawing import GREY, Figure, Panel, colour, drawing
from workflow.report.drift_figures import cells, grouped, main_text
from workflow.report.evidence import Evidence
from workflow.report.frames import of_text
from workflow.report.markup import MINUS, number, signed

DIVERGING = LinearSegmentedColormap.from_list("blue_orange", ["#0173b2", "#f7f7f5", "#d55e00"])
QUANTILES = np.array([0, 0.01, 0.025, *np.arange(1, 20) / 20, 0.975, 0.99, 1])


def transfer_maps(evidence: Evidence, text: str) -> Figure:
    """T×T maps of nmse(S_i on X_j), coloured by the difference from the diagonal of the column."""
    table = of_text(evidence.transfer, text)
    if "chain" in table:
        table = table[table["chain"] == "real"]
    seeds = table["seed"].nunique() if "seed" in table else 1
    panels = [(key, _map_panel(rows, key, evidence)) for key, rows in cells(table)]
    caption = (
        "Row: which stage's SAE; column: which stage's rows it reads. Upper number: nmse. Lower number and colour: difference "
        "from the diagonal of the same column, that is from the stage's own SAE: orange = worse than that one, blue = better, "
        f"pale = no difference. The first row (SAE of base) shows what moved away from it. Text set {text}"
        + (f"; means over {seeds} SAE seeds." if seeds > 1 else ".")
    )
    name = "transfer" if text == main_text(evidence) else f"transfer_{text}"
    return Figure(name, f"Transfer, text {text}", caption, grouped(panels), table)


def _map_panel(rows: Table, key: tuple[str, str, int], evidence: Evidence) -> Panel:
    run, kind, layer = key
    stages = evidence.ordered(run, list(rows["sae_stage"]))
    values = (
        rows.pivot_table(index="sae_stage", columns="store_stage", values="nmse").reindex(index=stages, columns=stages).to_numpy()
    )
    differences = values - np.diag(values)[None, :]
    wide, high = (0.62, 0.55) if len(stages) < 5 else (0.55, 0.4)
    with drawing(max(3.2, wide * len(stages) + 1.2), max(2.6, high * len(stages) + 1.1)) as drawn:
        axes = drawn.axes()
        draw_map(axes, values, differences, len(stages))
        axes.set_xticks(
            np.arange(len(stages)) + 0.5, stages, rotation=40 if len(stages) > 3 else 0, ha="right" if len(stages) > 3 else "center"
        )
        axes.set_yticks(np.arange(len(stages)) + 0.5, stages)
        axes.set_xlabel("rows of stage")
        axes.set_ylabel("SAE of stage")
        axes.set_title(f"layer {layer}")
    off = differences[~np.eye(len(stages), dtype=bool)]
    span = f"{signed(np.nanmin(off))} to {signed(np.nanmax(off))}" if np.isfinite(off).any() else "unknown"
    alt = (
        f"Run {run}, layer {layer}: {len(stages)} by {len(stages)} transfer matrix of nmse. Diagonal from {number(values[0, 0])} "
        f"at {stages[0]} to {number(values[-1, -1])} at {stages[-1]}; differences from the diagonal {span}."
    )
    return Panel(f"{run}-{kind}-layer_{layer}", alt, drawn.svg)


def draw_map(axes: Axes, values: np.ndarray, differences: np.ndarray, size: int) -> None:
    """A square of numbers, coloured by differences, orange above 0."""
    reach = float(np.nanmax(np.abs(differences))) if np.isfinite(differences).any() else 0.0
    norm = Normalize(-(reach or 1.0), reach or 1.0)
    axes.pcolormesh(differences, cmap=DIVERGING, norm=norm, edgecolors="#ffffff", linewidth=0.6)
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    for i in range(size):
        for j in range(size):
            if np.isfinite(values[i, j]):
                shade = "#ffffff" if _dark(DIVERGING(norm(differences[i, j]))) else "#1b1f24"
                axes.text(j + 0.5, i + 0.4, number(values[i, j]), ha="center", va="center", fontsize=8, color=shade)
                below = "" if i == j else f"{differences[i, j]:+#.2g}".replace("-", MINUS)
                axes.text(j + 0.5, i + 0.72, below, ha="center", va="center", fontsize=7, color=shade)


def _dark(rgba: tuple[float, float, float, float]) -> bool:
    """Whether white text reads better than black on a colour (relative luminance, WCAG 2.2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgba[:3]]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] < 0.22


def cosine_quantiles(evidence: Evidence, text: str) -> Table:
    """Quantiles of the decoder cosine with base over the latents of each SAE, re-initialised ones left out."""
    latents = evidence.latents
    latents = latents[(latents["text"] == text) & (latents["stage"] != "base")]
    if "reinitialised" in latents:
        latents = latents[~latents["reinitialised"].astype(bool)]
    keys = ["run", "kind", "layer", "chain", "seed", "stage"]
    rows = []
    for key, one in latents.groupby(keys, sort=False, observed=True):
        quantiles = np.quantile(one["decoder_cosine"].dropna(), QUANTILES) if one["decoder_cosine"].notna().any() else []
        rows += [(*key, len(one), q, value) for q, value in zip(QUANTILES, quantiles, strict=False)]
    return pd.DataFrame(rows, columns=[*keys, "latents", "quantile", "decoder_cosine"])


def cosine_curves(evidence: Evidence, quantiles: Table, text: str) -> Figure:
    """Distribution of the decoder cosine at the last stage, real against null, per layer."""
    panels = [(key, panel) for key, rows in cells(quantiles) if (panel := _cosine_panel(rows, key, evidence))]
    caption = (
        "How far the decoder directions of latents turned away from base by the last stage: for each value of the cosine with "
        "base, the share of latents at or below it (further left and up: more turning). Blue: chain real; grey, dashed: chain "
        "null, which never saw another policy. Where the two lie on each other the turning is refit. Re-initialised latents "
        "are left out."
    )
    name = "decoder_cosine" if text == main_text(evidence) else f"decoder_cosine_{text}"
    return Figure(name, f"Turning of decoder directions, text {text}", caption, grouped(panels), quantiles)


def _cosine_panel(rows: Table, key: tuple[str, str, int], evidence: Evidence) -> Panel:
    run, kind, layer = key
    last = evidence.ordered(run, list(rows["stage"]))[-1]
    rows = rows[rows["stage"] == last]
    with drawing(3.5, 2.5) as drawn:
        axes = drawn.axes()
        for chain, shade, dash, width in (("null", GREY, "--", 1.4), ("real", colour(0), "-", 1.8)):
            for index, (_, line) in enumerate(rows[rows["chain"] == chain].groupby("seed")):
                label = chain if index == 0 else None
                axes.plot(line["decoder_cosine"], line["quantile"], color=shade, linestyle=dash, linewidth=width, label=label)
        low = rows.loc[rows["quantile"] >= 0.025, "decoder_cosine"].min()
        axes.set_xlim(min(float(low), 0.99), 1.0)
        axes.set_ylim(0, 1)
        axes.set_title(f"layer {layer}, {last}")
        axes.set_xlabel("decoder cosine with base")
        axes.set_ylabel("share of latents ≤ x")
        drawn.legend(axes)
    middle = rows[np.isclose(rows["quantile"], 0.5)]
    said = ", ".join(f"{chain} {number(one['decoder_cosine'].mean())}" for chain, one in middle.groupby("chain"))
    return Panel(
        f"{run}-{kind}-layer_{layer}", f"Run {run}, layer {layer}, {last}: median decoder cosine with base, {said}.", drawn.svg
    )
