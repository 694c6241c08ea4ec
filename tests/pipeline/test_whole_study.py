"""The whole pipeline on a tiny model: what it leaves, killed and resumed, on other models and other cores."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest
from tiny_study import environment, result_digests, run_study, snakemake_command, write_study

CHAINS = ["real", "null", "cold", "repeat"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_the_study_leaves_its_tables_and_its_page(finished: Path) -> None:
    results = finished / "results"
    decomposition = pd.read_parquet(results / "drift/decomposition.parquet")
    fixed = decomposition[decomposition.text == "fixed"]
    assert set(zip(fixed.stage, fixed.layer, strict=True)) >= {(s, layer) for s in ("ppo_0001", "ppo_0002") for layer in (0, 1)}
    identity = fixed["shift"] + fixed.null_refit + fixed.adaptation - fixed.delta
    assert identity.abs().max() < 1e-12
    quality = pd.read_parquet(results / "drift/quality.parquet")
    assert quality.nmse.between(0, 3).all()
    page = (results / "report/report.html").read_text()
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_every_artefact_tells_how_it_was_made(finished: Path) -> None:
    provenances = list((finished / "results").rglob("*provenance.json"))
    assert len(provenances) > 20
    for path in provenances:
        told = json.loads(path.read_text())
        assert {"rule", "settings", "code", "inputs", "versions", "machine", "seconds", "notes"} <= set(told)


def test_a_killed_study_ends_with_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    folder = write_study(tmp_path / "killed")
    layer = "results/saes/strict/fixed/topk/real/seed_0/ppo_0001/layer_1"
    for seconds in (12, 22):
        running = subprocess.Popen(
            snakemake_command(folder, f"{layer}/manifest.json"), env=environment(), start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(seconds)
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        subprocess.run(snakemake_command(folder, "--unlock"), env=environment(), capture_output=True, check=True)
    run_study(folder, f"{layer}/manifest.json")
    killed = result_digests(folder)
    assert f"{layer}/sae.safetensors" in killed
    assert killed.items() <= result_digests(finished).items()


def test_given_policies_of_another_family_with_an_adapterless_chain(finished: Path, tmp_path: Path) -> None:
    """The trained stages of one study are the given stages of another, by path; `replayed` text, signed top-k, another
    seed, every chain."""
    policies = finished / "results/policies"
    stages = [
        {"stage": "base", "model": str(policies / "shared/base/model")},
        {"stage": "ppo_0002", "model": str(policies / "strict/ppo_0002/model")},
    ]
    folder = write_study(
        tmp_path / "given",
        policies={"source": "given", "given": {"outside": stages}},
        design={"layers": [1], "texts": ["fixed", "replayed"], "kinds": ["topk_signed"], "chains": CHAINS, "seeds": [3]},
        activations={"shards": 2},
        saes={"hop_rows": "same"},
    )
    run_study(folder)
    quality = pd.read_parquet(folder / "results/drift/quality.parquet")
    assert set(quality.run) <= {"outside", "shared"}
    assert set(quality.text) == {"fixed", "replayed"}
    assert set(quality.kind) == {"topk_signed"}
    assert set(quality.chain) == set(CHAINS)
    floors = pd.read_parquet(folder / "results/drift/decomposition.parquet")
    assert floors[["repeat_floor", "repeat_shift_floor", "cold_gap_low"]].notna().all(axis=None)
    assert "Nothing to be done" in run_study(folder)


def test_refusals_come_before_any_job(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "refused")
    command = snakemake_command(folder, "--config", "set=design.layers=[0,9] saes.kk=3")
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "Did you mean saes.k?" in done.stderr
    assert not (folder / "results").exists()


def test_more_cores_than_the_machine_has_start_no_more_jobs_than_it_can_hold(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "cores")
    cores = 4 * len(os.sched_getaffinity(0))
    plan = subprocess.run(
        snakemake_command(folder, "--dry-run", cores=cores), env=environment(), capture_output=True, text=True, check=True
    ).stdout
    assert "threads: 4" in plan
