"""Votes on the pools of a finished study: exactly their jobs, with and without probes, in files that repeat and on the page."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from planning import planned
from tiny_study import run_study

from workflow.formats.drift_columns import schema
from workflow.formats.voting_columns import VOTING_TABLES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SETTINGS = (
    "probes.stages=[base] traces.pool.samples=3 traces.pool.problems.train=0 traces.pool.problems.val=4 traces.pool.problems.test=6"
)
ALONE = "voting.tasks=[judge_correct]"
"""A task that no probe is fitted to: votes need no probe then."""


def replanned(folder: Path, *assignments: str) -> set[tuple[str, ...]]:
    with planned({"set": " ".join(assignments)}, targets=("voting",), folder=folder) as jobs:
        return jobs


def test_votes_need_a_pool_and_of_probes_what_their_tasks_ask_for(finished: Path, tmp_path: Path) -> None:
    own = {("sample_traces", "shared", "pool", "base"), ("vote_pool", "shared", "base"), ("voting_tables",)}
    assert replanned(finished, SETTINGS, ALONE) == own
    assert ("compare_probes", "shared", "base") in replanned(finished, SETTINGS)
    assert replanned(finished, SETTINGS, "voting.enabled=false") == set()
    folder = shutil.copytree(finished, tmp_path / "study")
    run_study(folder, "voting", "--config", f"set={SETTINGS} {ALONE}")
    for name, kind in VOTING_TABLES.items():
        table = pd.read_parquet(folder / f"results/voting/{name}.parquet")
        assert list(table.columns) == schema(kind).names
        assert len(pd.read_csv(folder / f"results/voting/{name}.csv")) == len(table)
    assert set(pd.read_parquet(folder / "results/voting/voting.parquet")["k"]) == {3}
    assert replanned(folder, SETTINGS, ALONE) == set()
    votes = {("vote_pool", "shared", "base"), ("voting_tables",)}
    assert replanned(folder, SETTINGS, ALONE, "voting.flips=99") == votes
    assert replanned(folder, SETTINGS, ALONE, "drift.replicates=300") == votes
    assert replanned(folder, SETTINGS, ALONE, "drift.fdr=0.1") == set()
