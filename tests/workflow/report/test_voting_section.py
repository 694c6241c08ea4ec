"""Votes on the page: the figure and the table where pools were voted on, nothing where none was."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from small_votes import BOOTSTRAP, SETTINGS, noisy_pool, probe_rows, write_scores

from workflow.formats.table_files import write_parquet
from workflow.report.study_page import write_report
from workflow.voting.voting import vote


def add_votes(made: Any, folder: Path, *, with_probes: bool) -> None:
    """Tables of votes on a pool of a made-up study."""
    traces = noisy_pool(folder / "traces.parquet", problems=12)
    parts = [
        probe_rows(traces, {each.trace: [0.5, 0.3 + 0.4 * (each.flexible == (n > 0))] for each in traces}, name)
        for n, name in enumerate(("dense.last", "dense.mean", "sae.topk.max", "ssae.base.real.seed_0"))
    ]
    scores = write_scores(folder / "scores.parquet", *parts) if with_probes else None
    found = vote(
        traces=folder / "traces.parquet", scores=scores, problems=None, run="strict", stage="ppo_0008", update=8, settings=SETTINGS,
        bootstrap=BOOTSTRAP,
    )  # fmt: skip
    made.inputs["voting"] = {}
    for name in ("voting", "voting_curves", "voting_tests"):
        write_parquet(folder / f"{name}.parquet", found[name])
        made.inputs["voting"][name] = str(folder / f"{name}.parquet")


def page(made: Any, out: Path) -> str:
    write_report(**made.arguments(out))
    return (out / "report.html").read_text(encoding="utf-8")


def test_schemes_are_drawn_over_k_and_told_with_their_tests(made_up: Callable[..., Any], tmp_path: Path) -> None:
    made = made_up()
    add_votes(made, tmp_path, with_probes=True)
    html = page(made, tmp_path)
    assert 'id="voting"' in html
    for told in ("majority", "oracle", "dense probe", "SAE probe", "step-level SAE probe", "p, Holm", "dense.mean, layer 1, l2"):
        assert told in html
    assert "dense.last, layer 1" not in re.sub(r'href="data:[^"]*"', "", html)
    data = pd.read_csv(tmp_path / "figures/voting.csv")
    assert set(data["k"]) == {1, 2, 4, 8}
    assert set(data["scheme"]) == {"majority", "oracle", "random", "confidence", "probe_vote"}
    assert len(list((tmp_path / "figures").glob("voting.*.svg"))) == 1


def test_a_pool_without_probes_is_said_to_have_none(made_up: Callable[..., Any], tmp_path: Path) -> None:
    made = made_up()
    add_votes(made, tmp_path, with_probes=False)
    html = page(made, tmp_path)
    assert "ppo_0008 of strict: no scores of probes" in html
    assert "SAE probe" not in html


def test_a_table_that_lacks_a_column_is_said_to(made_up: Callable[..., Any], tmp_path: Path) -> None:
    made = made_up()
    add_votes(made, tmp_path, with_probes=True)
    path = made.inputs["voting"]["voting_curves"]
    pd.read_parquet(path).drop(columns="accuracy_low").to_parquet(path)
    assert "left out, the table lacks accuracy_low" in page(made, tmp_path)


@pytest.mark.parametrize("given", [False, True])
def test_nothing_is_said_where_there_are_none(made_up: Callable[..., Any], tmp_path: Path, given: bool) -> None:
    assert 'id="voting"' not in page(made_up(given=given), tmp_path)
