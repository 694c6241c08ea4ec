"""Step-level SAEs on a finished study: exactly their jobs, in files that repeat, on the page, killed and gone on."""

import shutil
import subprocess
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
from planning import planned
from small_steps import write_lines
from tiny_study import environment, result_digests, run_study, snakemake_command

from workflow.formats.manifest import read_manifest
from workflow.formats.step_codes import read_step_codes
from workflow.formats.traces import read_traces

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SETTINGS = (
    "ssae.stages=[base] ssae.target_l1=3 ssae.training.epochs=3 ssae.training.warmup_epochs=1 ssae.training.batch=8 "
    "ssae.training.micro_batch=4 ssae.training.lr=0.001 ssae.training.min_lr=0.0001 n2g.steps.latents=0"
)
BASE = ("shared", "real", "0", "base")
JOBS = {
    ("tokenise_traces", "shared", "fixed", "base"), ("train_ssae", *BASE), ("measure_ssae", *BASE), ("ssae_tables",),
    ("make_report",),
}  # fmt: skip


def replanned(folder: Path, *assignments: str) -> set[tuple[str, ...]]:
    with planned({"set": " ".join(assignments)}, folder=folder) as jobs:
        return jobs


def test_they_add_their_own_jobs_run_and_are_told(finished: Path, tmp_path: Path) -> None:
    assert replanned(finished, SETTINGS) == JOBS
    folder = shutil.copytree(finished, tmp_path / "study")
    run_study(folder, "--config", f"set={SETTINGS}")
    assert replanned(folder, SETTINGS) == set()
    transfer = pd.read_parquet(folder / "results/drift/ssae_transfer.parquet")
    assert list(transfer["stage"]) == ["base"]
    assert (transfer["nll_low"] < transfer["nll"]).all()
    assert (transfer["l1"] > 1).all()
    history = pd.read_csv(folder / "results/ssae/models/shared/real/seed_0/base/history.csv")
    assert history["nll"].iloc[-1] < history["nll"].iloc[0]
    assert 'id="ssae"' in (folder / "results/report/report.html").read_text()
    other = ("shared", "real", "1", "base")
    added = {("train_ssae", *other), ("measure_ssae", *other), ("ssae_tables",), ("make_report",)}
    assert replanned(folder, SETTINGS, "ssae.seeds=[0,1]") == added
    assert replanned(folder, SETTINGS, "drift.replicates=300") >= {("ssae_tables",)}
    assert ("train_ssae", *BASE) not in replanned(folder, SETTINGS, "drift.replicates=300")
    retrained = replanned(folder, SETTINGS, "ssae.target_l1=4")
    assert ("train_ssae", *BASE) in retrained
    assert ("tokenise_traces", "shared", "fixed", "base") not in retrained


def test_of_a_file_of_solutions_and_as_given_they_encode_the_traces_of_the_study(finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "study")
    lines = [
        {"question": f"What is {n} + 1?", "answer": [f"We add. So {n} + 1 = {n + 1}.", f"\\[ x = {n + 1} \\]"]} for n in range(20)
    ]
    source = write_lines(tmp_path / "numina.jsonl", lines)
    codes = "results/ssae/codes/shared/real/seed_0/base/shared/fixed/base"
    numina = f"{SETTINGS} ssae.data.format=numina ssae.data.train={source} ssae.data.valid_share=0.3 ssae.training.epochs=2"
    run_study(folder, f"{codes}/manifest.json", "--config", f"set={numina}")
    made = folder / "results/ssae/models/shared/real/seed_0/base"
    first, read = read_manifest(made / "manifest.json", "step_sae"), read_step_codes(folder / codes / "codes.parquet")
    assert read_manifest(folder / codes / "manifest.json", "step_codes")["ssae"] == first["digest"]
    traces = {trace.trace: trace for trace in read_traces(folder / "results/traces/shared/fixed/reference/traces.parquet")}
    keys = list(zip(read.steps["trace"].to_pylist(), read.steps["step"].to_pylist(), strict=True))
    assert {trace for trace, _ in keys} == set(traces)
    assert all(step < len(traces[trace].step_ends) for trace, step in keys)
    assert read.codes.shape == (len(keys), first["d_code"])
    given = shutil.copytree(made, tmp_path / "given")
    assert ("tokenise_files", "train") not in replanned(folder, numina, "ssae.source=given", f"ssae.given.model={given}")
    run_study(folder, f"{codes}/manifest.json", "--config", f"set={numina} ssae.source=given ssae.given.model={given}")
    again = read_manifest(made / "manifest.json", "step_sae")
    assert (again["digest"], again["parent"]) == (first["digest"], first["digest"])


def test_killed_in_training_they_end_with_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    target = "results/ssae/models/shared/real/seed_0/base/manifest.json"
    settings = ("--config", f"set={SETTINGS} ssae.training.evaluations_per_epoch=8")
    undisturbed, killed = (shutil.copytree(finished, tmp_path / name) for name in ("undisturbed", "killed"))
    run_study(undisturbed, target, *settings)
    command = snakemake_command(killed, target, *settings)
    running = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    partial = killed / "results/ssae/models/shared/real/seed_0/.partial"
    deadline = time.monotonic() + 300
    while not list(partial.glob("*/state.pt")) and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    whole = psutil.Process(running.pid)
    for process in [*whole.children(recursive=True), whole]:
        process.kill()
    running.wait()
    run_study(killed, "--unlock")
    run_study(killed, target, "--rerun-incomplete", *settings)
    one, other = (
        {path: digest for path, digest in result_digests(folder).items() if "ssae" in path} for folder in (killed, undisturbed)
    )
    assert one == other
    assert any(path.endswith("step_sae.safetensors") for path in one)
