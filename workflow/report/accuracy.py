"""Held-out greedy accuracy of every stage, with intervals by problem and the paired difference from base."""

from typing import Any

import numpy as np
import pandas as pd

from workflow.frames import Table
from workflow.report.evidence import SHARED, Evidence
from workflow.statistics import interval, multiplicities

RULES = ("strict", "flexible")


def accuracy_table(evidence: Evidence, drift: dict[str, Any]) -> Table:
    """One row per run and stage, `base` repeated under each run.

    Columns: run, stage, update, problems; of each answer rule the share right, its interval, and the difference from base on the
    problems both solved, with the interval of that difference.

    Args:
        evidence: the report's inputs.
        drift: `replicates`, `confidence` and `seed` of the bootstrap.
    """
    solved = evidence.greedy
    if solved.empty:
        return pd.DataFrame()
    rows = []
    for run in evidence.runs:
        mine = solved[solved["run"].isin([run, SHARED])]
        stages = evidence.ordered(run, list(mine["stage"]))
        outcomes = {stage: mine[mine["stage"] == stage].groupby("problem")[list(RULES)].mean().astype(float) for stage in stages}
        base = outcomes.get("base")
        for stage in stages:
            row: dict[str, Any] = {
                "run": run,
                "stage": stage,
                "update": evidence.update(run, stage),
                "problems": len(outcomes[stage]),
            }
            for rule in RULES:
                row |= _measured(outcomes[stage][rule], rule, drift)
                if base is not None and stage != "base":
                    row |= _measured((outcomes[stage][rule] - base[rule]).dropna(), f"{rule}_gain", drift)
            rows.append(row)
    return pd.DataFrame(rows)


def _measured(outcomes: pd.Series, name: str, drift: dict[str, Any]) -> dict[str, float]:
    """Mean over problems and its interval; a single problem has a mean but no interval."""
    values = outcomes.sort_index().to_numpy()
    low = high = float("nan")
    if len(values) > 1:
        draws = multiplicities(len(values), drift["replicates"], drift["seed"])
        low, high = interval(draws @ values / len(values), drift["confidence"])
    return {name: float(np.mean(values)) if len(values) else float("nan"), f"{name}_low": low, f"{name}_high": high}
