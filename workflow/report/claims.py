"""What may be said: one sentence per run, layer and stage, never more than the intervals and the seeds carry."""

from collections import Counter
from typing import Any, NamedTuple

import pandas as pd

from workflow.report.evidence import Evidence
from workflow.report.frames import Table
from workflow.report.markup import with_interval

SAE_SEEDS, RL_SEEDS = 3, 2
"""Fewer seeds than these make a study exploratory."""
BEYOND, NOT_BEYOND, NO_NULL = "differs from base beyond refit", "not distinguished from refit", "no comparable null chain"


KEYS = ["run", "text", "kind", "layer", "stage"]


class Claim(NamedTuple):
    """The verdict on one stage against base at one layer."""

    run: str
    text: str
    kind: str
    layer: int
    stage: str
    seeds: int
    """SAE seeds behind it."""
    checks: dict[str, bool | None]
    """Conditions of the claim by name; None: not measured."""
    verdict: str
    exploratory: bool
    sentence: str


def claims(evidence: Evidence) -> list[Claim]:
    """The verdicts, in the order of the table; empty when the table lacks a term."""
    table = evidence.decomposition
    if not {*KEYS, "shift", "shift_low", "shift_high"} <= set(table.columns):
        return []
    sinks = table["sinks"] if "sinks" in table else pd.Series("dropped", table.index)
    by_sinks = {name: dict(list(rows.groupby(KEYS, sort=False))) for name, rows in table.groupby(sinks, sort=False)}
    found = []
    for key, rows in by_sinks.get("dropped", {}).items():
        run, text, *rest = key
        others = {"with sinks": by_sinks.get("included", {}).get(key)}
        if text != "replayed":
            others["replayed"] = by_sinks["dropped"].get((run, "replayed", *rest))
        if key[-1] != "base":
            found.append(_claim(dict(zip(KEYS, key, strict=True)), rows, others, evidence))
    return found


def exploratory(evidence: Evidence, run: str) -> list[str]:
    """Why statements about a run are exploratory; empty when it has seeds enough."""
    sae_seeds = evidence.decomposition["seed"].nunique() if "seed" in evidence.decomposition else 0
    reasons = [f"{sae_seeds} SAE seed{'s' * (sae_seeds != 1)} of at least {SAE_SEEDS}"] if sae_seeds < SAE_SEEDS else []
    rl_seeds = repetitions(evidence).get(run, 1)
    return reasons + ([f"{rl_seeds} RL seed of at least {RL_SEEDS}"] if rl_seeds < RL_SEEDS else [])


def repetitions(evidence: Evidence) -> dict[str, int]:
    """How many runs of the study differ from each run in nothing but the seed, itself included; given runs count alone."""
    policies = evidence.study.get("policies", {})
    if policies.get("source") == "given":
        return dict.fromkeys(evidence.runs, 1)
    runs = evidence.study.get("design", {}).get("runs") or {}
    settings = {run: _but_seed(policies, runs.get(run) or {}) for run in evidence.runs}
    counts = Counter(settings.values())
    return {run: counts[settings[run]] for run in evidence.runs}


def _but_seed(policies: dict[str, Any], own: dict[str, Any]) -> str:
    effective = {name: own.get(name, policies.get(name)) for name in sorted(own.keys() | policies.keys())}
    return repr([(name, value) for name, value in effective.items() if name not in ("seed", "given", "stages")])


def _claim(key: dict[str, Any], rows: Table, others: dict[str, Table | None], evidence: Evidence) -> Claim:
    side, null_side = one_side(rows, "shift"), one_side(rows, "adaptation")
    checks: dict[str, bool | None] = {"shift": side != 0, "adaptation": None if null_side is None else null_side != 0}
    checks["nmse_anchored"] = _same_sides(rows, "anchored_", side, null_side)
    if (included := others.get("with sinks")) is not None:
        checks["with sinks"] = _same_sides(included, "", side, null_side)
    if (replayed := others.get("replayed")) is not None:
        checks["replayed"] = all(
            rows[term].mean() * replayed[term].mean() > 0 for term in ("shift", "adaptation") if one_side(rows, term) is not None
        )
    holds = checks["shift"] and checks["adaptation"] and False not in checks.values()
    verdict = NO_NULL if null_side is None else BEYOND if holds else NOT_BEYOND
    doubtful = bool(exploratory(evidence, key["run"]))
    sentence = _sentence(key, rows, checks, verdict, doubtful)
    return Claim(**key, seeds=len(rows), checks=checks, verdict=verdict, exploratory=doubtful, sentence=sentence)


def one_side(rows: Table, name: str) -> int | None:
    """On which side of 0 the intervals of all rows lie: 1 above, −1 below, 0 when one of them holds 0; None when not measured."""
    if f"{name}_low" not in rows or rows[f"{name}_low"].isna().any():
        return None
    return int((rows[f"{name}_low"] > 0).all()) - int((rows[f"{name}_high"] < 0).all())


def _same_sides(rows: Table, prefix: str, side: int | None, null_side: int | None) -> bool | None:
    """Whether shift and adaptation lie on the same sides of 0 in another measure; None when that measure is missing."""
    other, other_null = one_side(rows, f"{prefix}shift"), one_side(rows, f"{prefix}adaptation")
    return None if other is None else (other, other_null) == (side, null_side)


def _sentence(key: dict[str, Any], rows: Table, checks: dict[str, bool | None], verdict: str, doubtful: bool) -> str:
    said = f"{key['stage']} against base at layer {key['layer']}: shift {_values(rows, 'shift')} is "
    said += "distinguished from 0" if checks["shift"] else "not distinguished from 0"
    if verdict == NO_NULL:
        refused = rows["comparison_refused"].dropna() if "comparison_refused" in rows else pd.Series(dtype=str)
        why = "there is no null chain" if refused.empty else refused.iloc[0]
        return f"{said}; {why}, so nothing is said about adaptation."
    said += f"; adaptation {_values(rows, 'adaptation')} is "
    said += "distinguished from refit" if checks["adaptation"] else "not distinguished from refit"
    if verdict == BEYOND:
        return f"{said}. Together: {'exploratory evidence that the stage' if doubtful else 'the stage'} {BEYOND}."
    failing = [name for name, holds in checks.items() if holds is False]
    return f"{said}. Together: {NOT_BEYOND}; it fails on {', '.join(failing)}."


def _values(rows: Table, name: str) -> str:
    """The value with its interval; over several SAE seeds the mean, and what all their intervals lie in."""
    envelope = {name: rows[name].mean(), f"{name}_low": rows[f"{name}_low"].min(), f"{name}_high": rows[f"{name}_high"].max()}
    shown = with_interval(envelope, name, sign=True)
    return shown if len(rows) == 1 else f"{shown} (mean of {len(rows)} SAE seeds, span of their intervals)"
