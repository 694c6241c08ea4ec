"""What the page may say, and what it must not."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from workflow.formats.claim_columns import BEYOND, EXPLORATORY, NO_NULL, NOT_BEYOND
from workflow.report.claims import SAID, Claim, claims, exploratory, gate_table
from workflow.report.evidence import Evidence, read_evidence


@pytest.fixture(scope="module")
def evidence(made_up: Callable[..., Any]) -> Evidence:
    study = made_up(seeds=[0, 1, 2], texts=["fixed", "replayed"])
    return read_evidence(study=study.study, **study.inputs)


def said(evidence: Evidence, **values: Any) -> Claim:
    """The statement about the text fixed, with other values in its row."""
    table = evidence.claims[evidence.claims["text"] == "fixed"].head(1).astype(object)
    for name, value in values.items():
        table[name] = [value]
    return claims(evidence._replace(claims=table))[0]


def test_what_was_not_measured_makes_a_statement_exploratory(evidence: Evidence) -> None:
    claim = said(evidence)
    assert claim.verdict == EXPLORATORY
    assert claim.sentence.endswith(
        "the stage may differ from base beyond refit; exploratory, for want of floor of a repeated fit, seeds."
    )
    assert "mean of 3 SAE seeds" in claim.sentence


def test_a_verdict_is_said_as_it_is(evidence: Evidence) -> None:
    claim = said(evidence, verdict=BEYOND, missing=None)
    assert claim.sentence.endswith("Together: the stage differs from base beyond refit.")
    taken_back = said(evidence, verdict=BEYOND, missing=None, reward_verdict=NOT_BEYOND)
    assert taken_back.sentence.endswith("changed as much: it is no effect of the reward.")


def test_what_fails_is_named(evidence: Evidence) -> None:
    claim = said(evidence, verdict=NOT_BEYOND, failing="shift, with_sinks", holds_shift=False)
    assert claim.sentence.endswith("not distinguished from refit; it fails on shift, with sinks.")
    assert "is not distinguished from 0" in claim.sentence


def test_what_sinks_are_is_said_where_they_are_in_the_way(evidence: Evidence) -> None:
    about = "2.4 % of the rows of base are sinks"
    failing = said(evidence, verdict=NOT_BEYOND, failing="with_sinks", about_sinks=about)
    assert failing.sentence.endswith("it fails on with sinks. With sinks: 2.4 % of the rows of base are sinks.")
    assert said(evidence, missing="with_sinks", about_sinks=about).sentence.endswith(
        "for want of with sinks. With sinks: " + about + "."
    )
    assert "With sinks:" not in said(evidence).sentence


def test_without_null_chain_nothing_is_claimed(made_up: Callable[..., Any]) -> None:
    study = made_up(chains=["real"])
    claim = said(read_evidence(study=study.study, **study.inputs))
    assert claim.verdict == NO_NULL
    assert claim.row["holds_adaptation"] is None
    assert claim.sentence.endswith("there is no null chain, so nothing is said about adaptation.")


def test_a_null_chain_of_another_l0_is_named_as_the_reason(evidence: Evidence) -> None:
    claim = said(evidence, verdict=NO_NULL, refused="l0 is 5.0 in the chain null and 3.0 in real")
    assert claim.sentence.endswith("l0 is 5.0 in the chain null and 3.0 in real, so nothing is said about adaptation.")


def test_conditions_that_no_row_of_a_run_has_are_listed(evidence: Evidence) -> None:
    assert exploratory(evidence, "strict") == ["floor of a repeated fit", "seeds", "permuted rewards", "latents"]
    assert exploratory(evidence, "another") == []


def test_the_table_of_the_gate_says_yes_no_and_not_measured(evidence: Evidence) -> None:
    table = gate_table(evidence._replace(claims=evidence.claims.assign(holds_shift=False)))
    assert set(table["holds_shift"]) == {"no"}
    assert set(table["holds_adaptation"]) == {"yes"}
    assert set(table["holds_latents"]) == {"not measured"}
    assert {name for name in evidence.claims if name.startswith("holds_")} == set(SAID)


def test_no_rows_give_no_statement(evidence: Evidence) -> None:
    assert claims(evidence._replace(claims=pd.DataFrame())) == []
