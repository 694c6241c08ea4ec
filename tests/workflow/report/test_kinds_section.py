"""The section on kinds side by side: there with several kinds, and it says where they disagree."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from workflow.report.claims import claims
from workflow.report.evidence import Evidence, read_evidence
from workflow.report.kinds_section import agreement, kinds_figure, kinds_section, side_by_side
from workflow.report.sections import Gallery


@pytest.fixture(scope="module")
def evidence(made_up: Callable[..., Any]) -> Evidence:
    study = made_up(kinds=["topk", "jumprelu"], updates=[8, 16])
    return read_evidence(study=study.study, **study.inputs)


@pytest.fixture(scope="module")
def table(evidence: Evidence) -> pd.DataFrame:
    return side_by_side(evidence, claims(evidence))


def changed(table: pd.DataFrame, kind: str, stage: str, term: str, value: float) -> pd.DataFrame:
    table, rows = table.copy(), (table["kind"] == kind) & (table["stage"] == stage)
    assert rows.any()
    table.loc[rows, [term, f"{term}_low", f"{term}_high"]] = [value, value - 0.001, value + 0.001]
    return table


def test_one_kind_alone_is_beside_nothing(made_up: Callable[..., Any]) -> None:
    study, gallery = made_up(), Gallery()
    alone = read_evidence(study=study.study, **study.inputs)
    assert kinds_section(alone, claims(alone), gallery) == ""
    assert not gallery.figures


def test_every_kind_has_a_row_with_its_own_numbers(evidence: Evidence, table: pd.DataFrame) -> None:
    assert list(table["stage"]) == ["ppo_0008", "ppo_0008", "ppo_0016", "ppo_0016"]
    assert list(table["kind"]) == ["topk", "jumprelu"] * 2
    dropped = evidence.decomposition[evidence.decomposition["sinks"] == "dropped"]
    for row in table.to_dict("records"):
        mine = dropped[(dropped["kind"] == row["kind"]) & (dropped["stage"] == row["stage"])].iloc[0]
        assert (row["shift"], row["null_refit_high"]) == (mine["shift"], mine["null_refit_high"])
        own = evidence.quality[(evidence.quality["kind"] == row["kind"]) & (evidence.quality["sinks"] == "dropped")]
        base, at = (own[(own["stage"] == stage) & (own["chain"] == "real")].iloc[0] for stage in ("base", row["stage"]))
        assert (row["nmse_base"], row["nmse"], row["l0"]) == (base["nmse"], at["nmse"], at["l0"])
    assert set(table["born"]) == {2}
    assert table["verdict"].notna().all()


def test_agreement_and_its_absence_are_said(table: pd.DataFrame) -> None:
    shift, adaptation = agreement(table)
    assert shift == (
        "Run strict, layer 10, shift: ppo_0008 above 0 in all kinds; ppo_0016 above 0 in all kinds; all kinds order the stages by "
        "size alike, ppo_0008 < ppo_0016."
    )
    assert "ppo_0016 below 0 in all kinds" in adaptation
    turned = agreement(changed(table, "jumprelu", "ppo_0016", "shift", -0.02))[0]
    assert "ppo_0016 differs between kinds (topk above 0, jumprelu below 0)" in turned
    hidden = agreement(changed(table, "topk", "ppo_0008", "adaptation", 0.0005))[1]
    assert "ppo_0008 differs between kinds (topk not distinguished from 0, jumprelu below 0)" in hidden
    other = agreement(changed(table, "jumprelu", "ppo_0008", "shift", 0.9))[0]
    assert other.endswith("the kinds order the stages by size differently.")
    assert agreement(table.assign(adaptation_low=None))[1].endswith("adaptation: not measured for every kind.")


def test_the_figure_has_a_panel_per_layer_and_term(evidence: Evidence, table: pd.DataFrame) -> None:
    figure = kinds_figure(evidence, table)
    ((_, panels),) = figure.groups
    assert [panel.name for panel in panels] == ["strict-layer_10-shift", "strict-layer_10-adaptation"]
    assert all("topk" in panel.svg and "jumprelu" in panel.svg for panel in panels)
    assert len(figure.data) == len(table)


def test_the_page_shows_it(evidence: Evidence, tmp_path: Path) -> None:
    gallery = Gallery()
    html = kinds_section(evidence, claims(evidence), gallery)
    assert "What each kind of SAE says of the same rows" in html
    assert [figure.name for figure in gallery.figures] == ["kinds"]
