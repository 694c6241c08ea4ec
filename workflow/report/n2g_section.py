"""Patterns of latents on the page: how well they explain, their graphs, and the change of these between stages."""

from typing import Any

import pandas as pd

from workflow.frames import Table
from workflow.report.drawing import GREY, Figure, Panel, colour, drawing
from workflow.report.evidence import Drawn, Evidence
from workflow.report.markup import Column, Html, element, joined, number, plain
from workflow.report.sections import Gallery, long_table

EXPLANATIONS = {"n2g": "patterns", "ngram": "last three tokens", "unigram": "token", "shuffled": "patterns of another latent"}
CELL = ["run", "kind", "seed", "layer", "stage"]
LEAD = (
    "Patterns are found without a language model that reads them (Neuron2Graph): the context of a row is cut to what the "
    "latent needs and its tokens are replaced in turn; the patterns that this suggests, and those that stand in front of all "
    "rows on which it is active, must pay for themselves on rows of the hop. They are scored on held-out problems: uniform, "
    "on all rows, active is above 0; top, on the problems of a latent's largest activations, active is above a share of its "
    "largest one. A guess has the precision and the average precision of the base rate. Latents of an SAE with random "
    "weights show what patterns explain without any training."
)


def n2g_section(evidence: Evidence, gallery: Gallery) -> Html:
    """Scores against baselines, tables, graphs; empty where nothing was mined."""
    made = evidence.n2g
    if not made:
        return joined([])
    parts: list[Html] = [element("p", LEAD)]
    if "n2g_scores" in made:
        scores = made["n2g_scores"]
        needed = [*CELL, "sae", "explanation", "rows", "f1", "f1_low", "f1_high"]
        parts.append(gallery.show(lambda: scores_figure(scores), scores, needed, "F1 of patterns", "no latent was mined."))
        parts.append(long_table(scores, _columns(SCORES, MEANS), "Means over latents", "n2g_scores"))
    parts += [
        long_table(made[name], _columns(keys, estimates), caption, f"{name}_all")
        for name, (keys, estimates, caption) in TABLES.items()
        if len(made.get(name, ()))
    ]
    for change, title in ((False, "Pattern graphs"), (True, "Pattern graphs from stage to stage")):
        if drawn := [one for one in evidence.graphs if one.change == change]:
            parts.append(gallery.show(lambda one=drawn, of=title: graphs_figure(one, of), _listed(drawn), [], title, ""))
    return joined(parts)


SCORES = ("run", "kind", "seed", "layer", "stage", "sae", "explanation", "rows", "latents", "base_rate")
MEANS = ("precision", "recall", "f1", "ap")
TABLES = {
    "n2g": (
        ("run", "kind", "seed", "layer", "stage", "sae", "latent", "group", "state", "category", "label", "pattern", "patterns",
         "firings", "base_rate", "f1_unigram", "f1_ngram", "f1_shuffled"),
        ("precision", "recall", "f1", "ap", "gain", "f1_top"), "Every latent that was mined",
    ),
    "n2g_transfer": (
        ("run", "kind", "seed", "layer", "graph_stage", "stage", "sae", "latents"), (*MEANS, "loss"),
        "Graphs of one stage on rows of another; sae frozen: activations of the SAE of base",
    ),
    "n2g_paths": (
        ("run", "kind", "seed", "layer", "latent", "group", "from_stage", "stage", "kept", "new", "lost", "overlap",
         "overlap_halves"), (),
        "Paths of the graphs of one latent at two stages",
    ),
    "n2g_steps": (
        ("run", "chain", "seed", "stage", "method", "latent", "state", "category", "pattern", "patterns", "base_rate", "f1_always",
         "f1_tokens", "f1_ngrams"), ("precision", "recall", "f1", "gain"), "Latents of step-level SAEs",
    ),
}  # fmt: skip
"""Keys, estimates and caption by table."""
WHOLE: tuple[str, ...] = ("seed", "layer", "latents", "latent", "patterns", "firings", "kept", "new", "lost")
RATES: tuple[str, ...] = (
    "base_rate", "f1_unigram", "f1_ngram", "f1_shuffled", "f1_always", "f1_tokens", "f1_ngrams", "overlap", "overlap_halves",
)  # fmt: skip


def _columns(keys: tuple[str, ...], estimates: tuple[str, ...]) -> list[Column]:
    show: dict[str, Any] = dict.fromkeys(WHOLE, plain) | dict.fromkeys(RATES, number)
    shown = [Column(f"{name}_shown", name.replace("_", " ")) for name in estimates]
    return [*(Column(name, name.replace("_", " "), show.get(name)) for name in keys), *shown]


def scores_figure(scores: Table) -> Figure:
    """Mean F1 of each explanation, a panel for uniform and one for top rows of every SAE."""
    groups = []
    for key, cell in scores.groupby(CELL, sort=False):
        run, kind, seed, layer, stage = key if isinstance(key, tuple) else (key,) * 5
        heading = f"{run}, {kind}, seed {seed}, layer {layer}, {stage}"
        groups.append((heading, [_panel(cell[cell["rows"] == rows], f"{heading} {rows}", rows) for rows in ("uniform", "top")]))
    caption = (
        "Mean F1 over latents with its interval by problem. Filled: latents of the trained SAE; open: of one with random weights. "
        "Patterns should lie above the tables of tokens, and those of another latent near nothing."
    )
    return Figure("n2g_scores", "F1 of patterns and of what knows no patterns", caption, groups, scores)


def _panel(rows: Table, name: str, title: str) -> Panel:
    said = []
    with drawing(3.5, 2.1) as drawn:
        axes = drawn.axes()
        for place, (explanation, label) in enumerate(EXPLANATIONS.items()):
            for offset, (sae, part) in enumerate(rows[rows["explanation"] == explanation].groupby("sae", sort=True)):
                low, value, high = (float(part[column].iloc[0]) for column in ("f1_low", "f1", "f1_high"))
                y, shade = -place - 0.22 * offset, colour(0) if explanation == "n2g" else GREY
                axes.plot([low, high], [y, y], color=shade, linewidth=1.4)
                axes.plot(
                    [value], [y], marker="o", color=shade, markerfacecolor=shade if sae == "trained" else "none", linestyle="none"
                )
                said.append(f"{label}, {sae} {number(value)}")
        axes.set_yticks([-place for place in range(len(EXPLANATIONS))], list(EXPLANATIONS.values()))
        axes.set_xlim(-0.02, 1.02)
        axes.set_title(f"F1, {title}")
    return Panel(name, f"Mean F1, {title}: {'; '.join(said)}.", drawn.svg)


def graphs_figure(drawn: list[Drawn], title: str) -> Figure:
    """Graphs that the phase n2g drew."""
    change = drawn[0].change
    how = "Grey: paths of both stages; green: new ones; orange, dashed: lost ones." if change else "Filled: a path begins there."
    caption = (
        "Tokens are read from left to right; the rightmost stands at the row on which the latent is active, the number "
        f"beside it is the expected activation over the largest one. <NUM> and <OP> are any number or operator, *{{0,4}} up"
        f" to four tokens. {how}"
    )
    panels = [Panel(one.name, f"{one.title}.", one.svg) for one in drawn]
    return Figure("n2g_changes" if change else "n2g_graphs", title, caption, [("", panels)], _listed(drawn))


def _listed(drawn: list[Drawn]) -> Table:
    return pd.DataFrame({"name": [one.name for one in drawn], "title": [one.title for one in drawn]})
