"""Interventions on a study that is finished but for them: exactly their jobs, their tables, their section."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from planning import planned
from tiny_study import run_study

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SPLICED = "interventions.problems=8"
CAUSED = "interventions.causal.latents=2 interventions.causal.draws=2 interventions.causal.problems=6"
SOLVED = "interventions.solving.problems=6 interventions.solving.max_new_tokens=4 interventions.solving.batch=4"
HOPS = ("ppo_0001", "ppo_0002")
SPLICES = {("splice", "strict", "fixed", "topk", "0", stage, layer) for stage in ("base", *HOPS) for layer in ("0", "1")}
SOLUTIONS = {("solve_spliced", "shared" if job[1:] and job[5] == "base" else "strict", *job[2:]) for job in SPLICES}
COMPARISONS = {("compare_outputs", "strict", "fixed", stage) for stage in HOPS}
CHECKS = {("causal", "strict", "fixed", "topk", "0", layer) for layer in ("0", "1")}


def replanned(folder: Path, *assignments: str) -> set[tuple[str, ...]]:
    with planned({"set": " ".join(assignments)}, folder=folder) as jobs:
        return jobs


def test_each_setting_adds_its_own_jobs_and_the_report(finished: Path) -> None:
    report = {("make_report",)}
    spliced = SPLICES | COMPARISONS | {("splice_tables",)} | report
    assert replanned(finished, SPLICED) == spliced
    assert replanned(finished, CAUSED) == CHECKS | {("causal_tables",)} | report
    assert replanned(finished, SOLVED) == SOLUTIONS | {("solving_tables",)} | report
    assert replanned(finished, SPLICED, CAUSED) == spliced | CHECKS | {("causal_tables",)}


def test_they_run_and_are_told(finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "study")
    run_study(folder, "--config", f"set={SPLICED} {CAUSED} {SOLVED}")
    drift = folder / "results/drift"
    splice, outputs, causal = (pd.read_parquet(drift / f"{name}.parquet") for name in ("splice", "outputs", "causal"))
    assert len(splice) == 2 * (1 + 3 * len(HOPS))
    assert (splice["prompts"] == 8).all()
    assert ((splice["ce_spliced"] - splice["ce"] - splice["delta_ce"]).abs() < 1e-9).all()
    assert (splice["kl"] > 0).all()
    assert set(outputs["stage"]) == set(HOPS)
    assert (outputs["kl"] > 0).all()
    assert set(causal["stage"]) == {"ppo_0002"}
    assert set(causal["group"]) == {"drifted", "random", "null", "all", "all_null"}
    solving = pd.read_parquet(drift / "solving.parquet")
    assert len(solving) == 2 * 2 * (1 + 3 * len(HOPS))
    assert (solving["prompts"] == 6).all()
    assert (solving[["right_right", "right_wrong", "wrong_right", "wrong_wrong"]].sum(axis=1) == 6).all()
    assert ((solving["accuracy"] * 6 - solving["right_right"] - solving["right_wrong"]).abs() < 1e-9).all()
    assert 'id="interventions"' in (folder / "results/report/report.html").read_text()
    assert replanned(folder, SPLICED, CAUSED, SOLVED) == set()
    tables = {("splice_tables",), ("solving_tables",), ("causal_tables",), ("drift_tables",), ("make_report",)}
    counted = {("measure_crosscoder", "strict", "fixed", "0", layer) for layer in ("0", "1")} | {("crosscoder_table",)}
    counted |= {("agreement_table",)}
    assert replanned(folder, SPLICED, CAUSED, SOLVED, "drift.replicates=300") == tables | counted
    stronger = replanned(folder, SPLICED, CAUSED, SOLVED, "interventions.causal.strengths=[3.0]")
    assert stronger == CHECKS | {("causal_tables",), ("make_report",)}
    ablated = SPLICES | SOLUTIONS | {("splice_tables",), ("solving_tables",), ("make_report",)}
    assert replanned(folder, SPLICED, CAUSED, SOLVED, "interventions.ablations=[zero]") == ablated
