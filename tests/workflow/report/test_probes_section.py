"""Probes on the page: forest, comparisons, transfer and controls where they were made, nothing where they were not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from workflow.report.probe_figures import best_by_set
from workflow.report.study_page import write_report


def page(made: Any, out: Path) -> str:
    write_report(**made.arguments(out))
    return (out / "report.html").read_text(encoding="utf-8")


def test_all_parts_are_shown(made_up: Callable[..., Any], tmp_path: Path) -> None:
    made = made_up()
    made.probe()
    html = page(made, tmp_path)
    assert 'id="probes"' in html
    stages, tasks, layers, models = 2, 2, len(made.layers), 2
    for told in (
        "What features of a step tell of it",
        f"2 of {stages * tasks * layers * models} probes on SAE codes validate better",
        "beside the baseline that validates best",
        "Probes of one stage on the steps of another",
        "holds ½ in 3 of 4 fits",
    ):
        assert told in html
    assert "before it converged" not in html
    assert len(list((tmp_path / "figures").glob("probes.*.svg"))) == stages * tasks * layers
    data = pd.read_csv(tmp_path / "figures/probes.csv")
    assert set(data["features"]) == {"sae.topk.max", "dense.last", "words"}
    assert set(data["model"]) == {"l2"}


def test_of_a_set_the_model_that_validates_best_is_drawn_whatever_the_test_says(made_up: Callable[..., Any]) -> None:
    made = made_up()
    made.probe()
    probes = pd.read_parquet(made.inputs["probes"]["probes"])
    worse = probes["model"] == "l1"
    probes.loc[worse, ["auroc", "validation"]] = [0.99, 0.1]
    assert "l1" not in set(best_by_set(probes)["model"])


def test_a_page_without_tests_of_yes_and_no_says_so(made_up: Callable[..., Any], tmp_path: Path) -> None:
    made = made_up()
    made.probe()
    path = made.inputs["probes"]["probes"]
    probes = pd.read_parquet(path)
    ends = ["auroc", "auroc_low", "auroc_high"]
    probes.assign(**dict.fromkeys(ends, None), not_fitted="too few prompts").astype(dict.fromkeys(ends, float)).to_parquet(path)
    html = page(made, tmp_path)
    assert "no yes/no label was in enough problems" in html
    assert "too few prompts" in html


def test_a_table_that_lacks_a_column_is_said_to(made_up: Callable[..., Any], tmp_path: Path) -> None:
    made = made_up()
    made.probe()
    path = made.inputs["probes"]["probes"]
    pd.read_parquet(path).drop(columns="validation").to_parquet(path)
    assert "left out, the table lacks validation" in page(made, tmp_path)


@pytest.mark.parametrize("given", [False, True])
def test_nothing_is_said_where_there_are_none(made_up: Callable[..., Any], tmp_path: Path, given: bool) -> None:
    assert 'id="probes"' not in page(made_up(given=given), tmp_path)


def test_fits_that_did_not_converge_are_told_in_plain_words(made_up: Callable[..., Any], tmp_path: Path) -> None:
    made = made_up()
    made.probe()
    path = made.inputs["probes"]["probes"]
    probes = pd.read_parquet(path)
    probes.assign(unconverged=[3, 1, *[0] * (len(probes) - 2)]).to_parquet(path)
    assert f"In 2 of {len(probes)} linear probes the solver of a fit stopped at its limit" in page(made, tmp_path)
