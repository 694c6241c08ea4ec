"""Patterns of latents on the page: scores, tables and graphs where they were made, nothing where they were not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from workflow.formats.drift_columns import Estimate
from workflow.formats.n2g_columns import N2gLatent, N2gPaths, N2gScore, N2gTransfer
from workflow.formats.table_files import arrow_table, write_parquet
from workflow.n2g.graphs import compared, graph_of
from workflow.n2g.layers import layered
from workflow.report.study_page import write_report

CELL: dict[str, Any] = {"run": "strict", "text": "fixed", "kind": "topk", "seed": 0, "layer": 10}
PATTERN = {"elements": [{"class": "NUM"}, {"gap": [0, 4]}, {"ids": [3], "texts": ["<b>"]}], "activation": 2.0}


def add_patterns(made: Any, folder: Path) -> None:
    """Tables of two latents at one stage, one of them silent, and drawings."""
    half = Estimate(0.5, 0.4, 0.6)
    means = dict.fromkeys(("precision", "recall", "f1", "ap"), half)
    empty: dict[str, Any] = (
        dict.fromkeys(N2gLatent._fields) | CELL | {"stage": "base", "sae": "trained", "patterns": 1, "contexts": 4}
    )
    empty |= {"category": "number", "firings": 40, "rate": 0.1, "prompts": 9, "base_rate": 0.1}
    latents = [N2gLatent(**(empty | means | {"latent": 7, "group": "changed", "state": "mined", "pattern": "<NUM> '<b>'"})),
               N2gLatent(**(empty | {"latent": 8, "group": "random", "state": "silent", "firings": 0}))]  # fmt: skip
    scores = [N2gScore(**CELL, stage="base", sae=sae, explanation=name, rows=rows, latents=1, base_rate=0.1, **means)
              for sae in ("trained", "untrained") for name in ("n2g", "unigram") for rows in ("uniform", "top")]  # fmt: skip
    transfer = [N2gTransfer(**CELL, graph_stage="base", stage="ppo_0016", sae="frozen", latents=1, loss=None, **means)]
    change = {"kept": 1, "new": 2, "lost": 3, "overlap": 1 / 6, "overlap_halves": 0.5}
    paths = [N2gPaths(**CELL, latent=7, group="changed", from_stage="base", stage="ppo_0016", **change)]
    tables = {"n2g": (latents, N2gLatent), "n2g_scores": (scores, N2gScore), "n2g_transfer": (transfer, N2gTransfer),
              "n2g_paths": (paths, N2gPaths)}  # fmt: skip
    made.inputs["n2g"] = {}
    for name, (rows, kind) in tables.items():
        write_parquet(folder / f"{name}.parquet", arrow_table(rows, kind))
        made.inputs["n2g"][name] = str(folder / f"{name}.parquet")
    for part, states in (("graphs", None), ("changes", compared([], [PATTERN]))):
        place = folder / "layer_10" / part
        place.mkdir(parents=True)
        (place / "latent_7.svg").write_text(layered(graph_of([PATTERN], 4.0, states), f"Patterns of latent 7, {part}"))
    made.inputs["graphs"] = [str(folder / "layer_10" / part) for part in ("graphs", "changes")]


def page(made: Any, out: Path) -> str:
    write_report(**made.arguments(out))
    return (out / "report.html").read_text(encoding="utf-8")


def test_scores_tables_and_graphs_are_shown(made_up: Callable[..., Any], tmp_path: Path) -> None:
    made = made_up()
    add_patterns(made, tmp_path / "n2g")
    html = page(made, tmp_path / "report")
    assert 'id="n2g"' in html
    for told in (
        "F1 of patterns and of what knows no patterns",
        "Every latent that was mined",
        "Graphs of one stage on rows of another",
        "Pattern graphs from stage to stage",
        "silent",
        "&lt;NUM&gt;",
    ):
        assert told in html
    assert "<b>" not in html
    figures = tmp_path / "report" / "figures"
    assert len(list(figures.glob("n2g_scores.*.svg"))) == 2
    assert len(list(figures.glob("n2g_graphs.*.svg"))) == len(list(figures.glob("n2g_changes.*.svg"))) == 1
    assert set(pd.read_csv(figures / "n2g_scores.csv")["explanation"]) == {"n2g", "unigram"}


def test_nothing_is_said_where_nothing_was_mined(made_up: Callable[..., Any], tmp_path: Path) -> None:
    assert 'id="n2g"' not in page(made_up(), tmp_path)
