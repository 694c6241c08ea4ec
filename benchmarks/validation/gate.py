"""The verdict of the workflow's own claim gate on the tables of a world."""

import pandas as pd

from workflow.config.recipes import Recipe
from workflow.drift.gate import claim_rows
from workflow.formats.claim_columns import BEYOND, EXPLORATORY, Claim
from workflow.frames import Table


def verdicts(table: Table) -> list[Claim]:
    """What would be said of each run and stage, the runs being RL seeds of one recipe."""
    runs = {run: Recipe("strict", number, "") for number, run in enumerate(dict.fromkeys(table["run"]))}
    return claim_rows(table, pd.DataFrame(), pd.DataFrame(), runs)


def passed(claim: Claim) -> bool:
    """Whether the gate lets a claim pass; what a world has none of (replayed text, more seeds) stops none."""
    return claim.verdict in (BEYOND, EXPLORATORY)
