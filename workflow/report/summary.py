"""The main numbers for machines, and for the log."""

import logging
from typing import Any

from workflow.frames import Table
from workflow.report.claims import Claim, exploratory
from workflow.report.evidence import Evidence
from workflow.report.making import once_per_job, seconds_table
from workflow.report.markup import missing, number, with_interval
from workflow.report.policy_figures import by_update

log = logging.getLogger(__name__)
DECOMPOSED = ("delta", "shift", "refit", "null_refit", "adaptation", "contrast")
QUALITY = (
    "run", "text", "kind", "chain", "seed", "stage", "update", "layer", "sinks", "store_stage", "nmse", "nmse_low", "nmse_high",
    "nmse_anchored", "nmse_pooled", "l0", "dead_share",
)  # fmt: skip


def summary(evidence: Evidence, accuracy: Table, found: list[Claim]) -> dict[str, Any]:
    """The main numbers as plain data; null where something was not measured.

    Keys: `policies`, `rewards` (first and last quarter of updates), `accuracy`, `quality`, `decomposition`, `dictionary` (lists of
    single latents), `claims`, `exploratory` (conditions that were not measured, by run), `seconds` (by rule). Quality and
    decomposition with sinks dropped.
    """
    terms = [f"{term}{end}" for term in DECOMPOSED for end in ("", "_low", "_high")]
    keys = ["run", "text", "kind", "seed", "layer", "sinks", "stage", "update"]
    return {
        "policies": records(evidence.policies, ["run", "stage", "update", "kl"]),
        "rewards": rewards(evidence),
        "accuracy": records(accuracy, list(accuracy.columns)),
        "quality": records(_primary(evidence.quality), list(QUALITY)),
        "decomposition": records(_primary(evidence.decomposition), [*keys, *terms]),
        "dictionary": records(evidence.dictionary, list(evidence.dictionary.columns)),
        "claims": [claim.row | {"sentence": claim.sentence} for claim in found],
        "exploratory": {run: exploratory(evidence, run) for run in evidence.runs},
        "seconds": records(seconds_table(once_per_job(evidence.provenances)), ["rule", "jobs", "total", "longest", "memory"]),
    }


def _primary(table: Table) -> Table:
    return table[table["sinks"] == "dropped"] if "sinks" in table else table


def records(frame: Table, columns: list[str]) -> list[dict[str, Any]]:
    """Rows as plain dicts of the columns that exist; what is missing is None."""
    chosen = frame[[name for name in columns if name in frame]].astype(object)
    return [{name: None if missing(value) else value for name, value in row.items()} for row in chosen.to_dict("records")]


def rewards(evidence: Evidence) -> list[dict[str, Any]]:
    """Mean reward over the first and the last quarter of each run's updates."""
    found = []
    for run in evidence.runs if "reward" in evidence.curves else ():
        values = by_update(evidence.curves, run)["reward"].dropna()
        if len(values):
            quarter = max(1, len(values) // 4)
            first, last = float(values.iloc[:quarter].mean()), float(values.iloc[-quarter:].mean())
            found.append({"run": run, "updates": len(values), "first_quarter": first, "last_quarter": last})
    return found


def log_summary(numbers: dict[str, Any]) -> None:
    """Print the main numbers to the log, a line each."""
    for row in numbers["accuracy"]:
        log.info(
            "greedy accuracy: %s %s: strict %s, flexible %s, of %d problems", row["run"], row["stage"],
            with_interval(row, "strict", scale=100, unit="%"), with_interval(row, "flexible", scale=100, unit="%"), row["problems"],
        )  # fmt: skip
    for row in numbers["rewards"]:
        log.info(
            "reward: %s: %s in the first quarter, %s in the last",
            row["run"],
            number(row["first_quarter"]),
            number(row["last_quarter"]),
        )
    for row in numbers["quality"]:
        log.info("nmse: %s: %s", _where(row, "chain", "stage"), with_interval(row, "nmse"))
    for row in numbers["decomposition"]:
        shift, adaptation = with_interval(row, "shift", sign=True), with_interval(row, "adaptation", sign=True)
        log.info("drift: %s: shift %s, adaptation %s", _where(row, "stage"), shift, adaptation)


def _where(row: dict[str, Any], *more: str) -> str:
    return f"{row['run']} {row['text']} {row['kind']} seed {row['seed']} layer {row['layer']} " + " ".join(
        row[name] for name in more
    )
