"""Step-level SAEs on the page: their training and tables where they were made, nothing where they were not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from workflow.report.ssae_section import latent_counts
from workflow.report.study_page import write_report


def page(made: Any, out: Path) -> str:
    write_report(**made.arguments(out))
    return (out / "report.html").read_text(encoding="utf-8")


def test_training_and_tables_are_shown(made_up: Callable[..., Any], tmp_path: Path) -> None:
    made = made_up()
    made.rebuild_steps()
    html = page(made, tmp_path)
    assert 'id="ssae"' in html
    for told in (
        "Training of step-level SAEs",
        "Step-level SAEs on the steps of every stage",
        "from base to each stage",
        "share of active latents",
        "Latents of step-level SAEs that never read",
    ):
        assert told in html
    data = pd.read_csv(tmp_path / "figures/ssae_training.csv")
    assert set(data["chain"].fillna("null")) == {"real", "null"}
    assert (data["target_l1"] == 4).all()
    assert len(list((tmp_path / "figures").glob("ssae_training.*.svg"))) == 3


def test_latents_are_counted_by_chain(made_up: Callable[..., Any]) -> None:
    made = made_up()
    made.rebuild_steps()
    counted = latent_counts(pd.read_parquet(made.inputs["ssae"]["latents"]), 0.05).set_index("chain")
    names = ["latents", "tested", "changed", "confirmed", "stable"]
    assert (counted[names] == [4, 3, 1, 1, 0]).all().all()
    assert (counted.loc["null", ["appeared", "vanished"]] == [1, 0]).all().all()
    assert counted.loc["real", ["appeared", "vanished"]].isna().all().all()


def test_without_measurements_the_training_is_shown_alone(made_up: Callable[..., Any], tmp_path: Path) -> None:
    made = made_up()
    made.rebuild_steps(transfer=None, decomposition=None, latents=None)
    html = page(made, tmp_path)
    assert "Training of step-level SAEs" in html
    assert "Step-level SAEs on the steps of every stage" not in html


def test_a_history_that_lacks_a_column_is_said_to(made_up: Callable[..., Any], tmp_path: Path) -> None:
    made = made_up()
    made.rebuild_steps()
    for path in made.inputs["ssae"]["histories"]:
        pd.read_csv(path).drop(columns="l1").to_csv(path, index=False)
    assert "left out, the table lacks l1" in page(made, tmp_path)


@pytest.mark.parametrize("given", [False, True])
def test_nothing_is_said_where_there_are_none(made_up: Callable[..., Any], tmp_path: Path, given: bool) -> None:
    assert 'id="ssae"' not in page(made_up(given=given), tmp_path)
