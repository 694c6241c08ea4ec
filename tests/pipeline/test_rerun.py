"""After a change, exactly what it invalidates is planned again."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

import pytest
from planning import planned
from tiny_study import run_study

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TABLES = {("drift_tables",), ("make_report",)}
ALIKE = {("representation", "strict", "fixed", layer) for layer in ("0", "1")} | {("representation_table",)}
MATCHED = {("agreement_table",)}
COUNTED = {("measure_crosscoder", "strict", "fixed", "0", layer) for layer in ("0", "1")} | {("crosscoder_table",)} | MATCHED
TRAINED = {("crosscoder", "strict", "fixed", "0", layer) for layer in ("0", "1")}
DRIFT = {("measure_drift", "strict", "fixed", "topk", "0", layer) for layer in ("0", "1")}
HOPS = ("ppo_0001", "ppo_0002")


def sae(chain: str, stage: str, layer: str) -> tuple[str, ...]:
    run = "shared" if stage == "base" else "strict"
    return ("train_sae", run, "fixed", "topk", chain, "0", stage, layer)


def chain(layer: str) -> set[tuple[str, ...]]:
    return {sae("real", "base", layer)} | {sae(c, stage, layer) for c in ("real", "null") for stage in HOPS}


SAES = chain("0") | chain("1")


def replanned(folder: Path, *assignments: str, **sections: dict) -> set[tuple[str, ...]]:
    with planned({"set": " ".join(assignments), **sections}, folder=folder) as jobs:
        return jobs


def of(jobs: Iterable[tuple[str, ...]], rule: str) -> set[tuple[str, ...]]:
    return {job for job in jobs if job[0] == rule}


def test_nothing_is_to_be_done_after_a_full_run(finished: Path) -> None:
    assert replanned(finished) == set()
    assert "Nothing to be done" in run_study(finished)


def test_other_threads_re_run_nothing(finished: Path) -> None:
    assert replanned(finished, "compute.threads=2") == set()


def test_a_setting_of_the_page_re_runs_the_report(finished: Path) -> None:
    assert replanned(finished, "report.title=Other") == {("make_report",)}


def test_the_bootstrap_re_runs_the_tables_and_no_measurement(finished: Path) -> None:
    assert replanned(finished, "drift.replicates=300") == COUNTED | TABLES


def test_a_drift_setting_re_runs_the_measurements(finished: Path) -> None:
    assert replanned(finished, "drift.min_firings=3") == DRIFT | COUNTED | TABLES


def test_where_classes_begin_moves_no_crosscoder(finished: Path) -> None:
    assert replanned(finished, "drift.crosscoder.exclusive=0.2") == COUNTED | {("make_report",)}
    assert replanned(finished, "drift.crosscoder.lr=0.01") == TRAINED | COUNTED | {("make_report",)}


def test_a_crosscoder_that_is_switched_off_is_missing_on_the_page_alone(finished: Path) -> None:
    assert replanned(finished, "drift.crosscoder.enabled=false") == {("make_report",)}


def test_a_jackknife_setting_re_runs_what_is_measured_before_any_sae(finished: Path) -> None:
    assert replanned(finished, "drift.representation.jackknife_groups=5") == ALIKE | {("make_report",)}


def test_k_re_runs_all_saes_and_what_follows(finished: Path) -> None:
    assert replanned(finished, "saes.k=5") == SAES | DRIFT | MATCHED | ALIKE | TABLES


def test_one_layers_k_re_runs_that_layer_only(finished: Path) -> None:
    measured = {job for job in DRIFT | ALIKE if job[-1] == "1"} | {("representation_table",)} | MATCHED
    expected = chain("1") | measured | TABLES
    assert replanned(finished, saes={"by_layer": {"1": {"k": 5}}}) == expected


def test_epochs_of_later_hops_leave_the_base_sae_alone(finished: Path) -> None:
    assert replanned(finished, "saes.hop_epochs=3") == {job for job in SAES if job[-2] != "base"} | DRIFT | MATCHED | TABLES


def test_another_seed_adds_its_saes_and_nothing_else(finished: Path) -> None:
    jobs = replanned(finished, "design.seeds=[0,1]")
    assert {job[5] for job in of(jobs, "train_sae")} == {"1"}
    assert {job[4] for job in of(jobs, "measure_drift")} == {"1"}
    assert jobs - of(jobs, "train_sae") - of(jobs, "measure_drift") == ALIKE | TABLES | MATCHED


def test_other_chains_add_their_saes_and_measure_again(finished: Path) -> None:
    jobs = replanned(finished, "design.chains=[real,null,cold,repeat]")
    added = {sae(c, stage, layer) for c in ("cold", "repeat") for stage in HOPS for layer in ("0", "1")}
    assert jobs == added | DRIFT | MATCHED | TABLES


def test_another_text_adds_its_stores_and_measurements_and_no_sae(finished: Path) -> None:
    jobs = replanned(finished, "design.texts=[fixed,onpolicy]")
    stores = {("extract_shard", "shared" if s == "base" else "strict", "onpolicy", s, "heldout", "000") for s in ("base", *HOPS)}
    measured = {("measure_drift", "strict", "onpolicy", "topk", "0", layer) for layer in ("0", "1")}
    assert jobs == stores | measured | TABLES


def test_the_sink_filter_re_runs_saes_but_no_extraction(finished: Path) -> None:
    assert replanned(finished, "activations.skip_positions=2") == SAES | DRIFT | ALIKE | TRAINED | COUNTED | TABLES


def test_another_stage_adds_its_own_jobs_and_the_rows_of_base_for_its_null_chain(finished: Path) -> None:
    jobs = replanned(finished, "policies.stages=[1,2,3]")
    assert of(jobs, "ppo_stage") == {("ppo_stage", "strict", "ppo_0003")}
    assert of(jobs, "sample_traces") == {("sample_traces", "strict", "onpolicy", "ppo_0003")}
    added = {("shared", "fixed", "base", "hop_3"), *(("strict", "fixed", "ppo_0003", part) for part in ("heldout", "hop_3"))}
    assert {job[1:5] for job in of(jobs, "extract_shard")} == added
    assert of(jobs, "train_sae") == {sae(c, "ppo_0003", layer) for c in ("real", "null") for layer in ("0", "1")}


def test_another_run_shares_base(finished: Path) -> None:
    jobs = replanned(finished, design={"runs": {"permuted": {"reward": "permuted"}}})
    assert {job[1] for job in jobs if len(job) > 1} == {"permuted"}


def test_a_ppo_setting_re_runs_from_the_first_stage_on(finished: Path) -> None:
    jobs = replanned(finished, "policies.lr=0.001")
    assert of(jobs, "ppo_stage") == {("ppo_stage", "strict", stage) for stage in HOPS}
    assert not of(jobs, "warm_up")
    assert not {job for job in of(jobs, "extract_shard") if job[1] == "shared"}


def test_problems_re_run_everything_but_the_start_model(finished: Path) -> None:
    jobs = replanned(finished, "problems.seed=1")
    assert ("make_problems",) in jobs
    assert ("start_model",) not in jobs
    assert jobs > SAES | DRIFT | TABLES


def test_touching_every_result_manifest_re_runs_nothing(finished: Path) -> None:
    for manifest in (finished / "results").rglob("manifest.json"):
        os.utime(manifest)
    assert replanned(finished) == set()


def test_a_deleted_shard_is_rebuilt_alone_and_changes_nothing_downstream(finished: Path) -> None:
    stem = finished / "results/activations/strict/fixed/ppo_0001/layer_1/heldout/shard_000"
    before = {path: path.read_bytes() for path in (finished / "results/drift").glob("*.parquet")}
    for path in (stem.with_suffix(".json"), stem.with_suffix(".zarr") / "zarr.json"):
        path.unlink()
    assert replanned(finished) == set(), "whoever deletes stores to save space does not get them back unasked"
    with planned({}, targets=("activations",), folder=finished) as jobs:
        assert jobs == {("extract_shard", "strict", "fixed", "ppo_0001", "heldout", "000")}
    run_study(finished, "activations")
    assert replanned(finished) == set()
    assert before == {path: path.read_bytes() for path in before}


def test_a_code_change_re_runs_its_phase_and_what_follows(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from workflow import fingerprint as fp

    plain = fp.code_form
    changed = "workflow/drift/drift_tables.py"
    source = (fp.ROOT / changed).read_text()
    monkeypatch.setattr(fp, "code_form", lambda text: plain(text) + ("changed" if text == source else ""))
    fp.fingerprint.cache_clear()
    try:
        assert replanned(finished) == TABLES
    finally:
        fp.fingerprint.cache_clear()


def test_the_manifests_hold_no_time_and_no_machine(finished: Path) -> None:
    for path in (finished / "results").rglob("manifest.json"):
        assert not {"seconds", "started", "host", "machine"} & set(json.loads(path.read_text()))
