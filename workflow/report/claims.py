"""What may be said: one sentence per run, layer and stage, from the verdicts of the claim gate and never more than they carry."""

from typing import Any, NamedTuple

import pandas as pd

from workflow.formats.claim_columns import BEYOND, EXPLORATORY, NO_NULL, NOT_BEYOND
from workflow.frames import Table
from workflow.report.evidence import Evidence
from workflow.report.markup import with_interval

SAID = {
    "holds_shift": "shift",
    "holds_adaptation": "adaptation",
    "holds_above_floor": "floor of a repeated fit",
    "holds_same_in_seeds": "seeds",
    "holds_anchored": "nmse_anchored",
    "holds_with_sinks": "with sinks",
    "holds_replayed": "replayed text",
    "holds_reward": "permuted rewards",
    "holds_latents": "latents",
}
"""Conditions by column, in words."""


class Claim(NamedTuple):
    """The verdict on one stage against base at one layer."""

    run: str
    text: str
    kind: str
    layer: int
    stage: str
    verdict: str
    row: dict[str, Any]
    """The row of the table claims."""
    sentence: str


def claims(evidence: Evidence) -> list[Claim]:
    """The verdicts, in the order of the table."""
    rows = evidence.claims.astype(object).where(evidence.claims.notna(), None).to_dict("records") if len(evidence.claims) else []
    keys = ("run", "text", "kind", "layer", "stage", "verdict")
    return [Claim(**{name: row[name] for name in keys}, row=row, sentence=_sentence(row)) for row in rows]


def gate_table(evidence: Evidence) -> Table:
    """The claim gate as a table: a column per condition that says yes, no or not measured."""
    words = {True: "yes", False: "no", None: "not measured"}
    columns = {name: [words[None if pd.isna(held) else bool(held)] for held in evidence.claims[name]] for name in SAID}
    return evidence.claims.assign(**columns)


def exploratory(evidence: Evidence, run: str) -> list[str]:
    """Conditions that were measured nowhere for a run, in words; empty when all were."""
    mine = evidence.claims[evidence.claims["run"] == run] if len(evidence.claims) else evidence.claims
    return [said for name, said in SAID.items() if len(mine) and mine[name].isna().all()]


def _sentence(row: dict[str, Any]) -> str:
    said = f"{row['stage']} against base at layer {row['layer']}: shift {_values(row, 'shift')} is "
    said += "distinguished from 0" if row["holds_shift"] else "not distinguished from 0"
    if row["verdict"] == NO_NULL:
        return f"{said}; {row['refused'] or 'there is no null chain'}, so nothing is said about adaptation."
    said += f"; adaptation {_values(row, 'adaptation')} is "
    said += "distinguished from refit" if row["holds_adaptation"] else "not distinguished from refit"
    if row["verdict"] == NOT_BEYOND:
        return f"{said}. Together: {NOT_BEYOND}; it fails on {_named(row['failing'])}.{_about_sinks(row, row['failing'])}"
    said += f". Together: the stage {row['verdict']}"
    if row["verdict"] == EXPLORATORY:
        return f"{said}; exploratory, for want of {_named(row['missing'])}.{_about_sinks(row, row['missing'])}"
    said += "."
    if row["verdict"] == BEYOND and row["reward_verdict"] == NOT_BEYOND:
        said += " The run with permuted rewards changed as much: it is no effect of the reward."
    return said


def _about_sinks(row: dict[str, Any], conditions: str) -> str:
    """What sinks are, where the condition about them is among these."""
    return f" With sinks: {row['about_sinks']}." if "with_sinks" in conditions.split(", ") and row["about_sinks"] else ""


def _named(conditions: str) -> str:
    return ", ".join(SAID[f"holds_{name}"] for name in conditions.split(", "))


def _values(row: dict[str, Any], name: str) -> str:
    """The value with its interval; over several SAE seeds the mean, and what all their intervals lie in."""
    shown = with_interval(row, name, sign=True)
    return shown if row["sae_seeds"] == 1 else f"{shown} (mean of {row['sae_seeds']} SAE seeds, span of their intervals)"
