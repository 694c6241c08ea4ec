"""The verdict of the report's own claim gate on the tables of a world."""

from typing import Any

import pandas as pd

from workflow.report.claims import BEYOND, Claim, claims
from workflow.report.evidence import Evidence
from workflow.report.frames import Table


def verdicts(table: Table, kl: list[list[float]] | None = None) -> list[Claim]:
    """What the report would print about each run and stage."""
    runs = list(dict.fromkeys(table["run"]))
    stages = list(dict.fromkeys(table["stage"]))
    policies = pd.DataFrame(
        [
            {"run": run, "stage": stage, "update": int(table.loc[table["stage"] == stage, "update"].iloc[0]),
             "kl": kl[number][place] if kl else None}
            for number, run in enumerate(runs) for place, stage in enumerate(stages, 1)
        ]
    )  # fmt: skip
    study = {"policies": {"source": "ppo", "runs": {run: {"seed": number} for number, run in enumerate(runs)}}}
    absent: dict[str, Any] = {name: pd.DataFrame() for name in Evidence._fields}
    absent |= {"problems": {}, "traces": [], "shards": [], "provenances": [], "interventions": {}}
    return claims(Evidence(**absent | {"study": study, "policies": policies, "decomposition": table}))


def passed(claim: Claim) -> bool:
    """Whether the gate lets a claim pass."""
    return claim.verdict == BEYOND
