"""Probes on a finished study: labels from everywhere, features, fits, tables and page; exactly their jobs, killed and gone on."""

import hashlib
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from chat_server import Answer, Asked, ChatServer, chat_server, completion
from planning import planned
from tiny_study import environment, result_digests, run_study, snakemake_command

from workflow.formats.drift_columns import schema
from workflow.formats.manifest import read_manifest
from workflow.formats.probe_columns import PROBE_TABLES
from workflow.formats.step_labels import read_step_labels
from workflow.formats.traces import read_traces

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

POOLS = (("shared", "base"), ("strict", "ppo_0002"))
PLACES = ("layer_0", "layer_1", "no_layer")
FIT = "results/probes/fits/shared/pool/base/layer_0"
SETTINGS = (
    "probes.stages=[base,ppo_0002] traces.pool.samples=3 traces.pool.problems.train=24 traces.pool.problems.val=4 "
    "traces.pool.problems.test=16 voting.enabled=false probes.value.continuations=2 probes.features.frozen_decoder=true "
    "probes.fits.tasks=[mine,judge_correct,final_strict,length,first_token] probes.fits.models=[l2,l1,k_sparse] probes.fits.k=[2] "
    "probes.fits.c_grid=[0.01,0.1] probes.fits.folds=2 probes.fits.min_problems=2 probes.fits.permutations=1"
)
LABELLED = {("label_steps", *pool) for pool in POOLS}
FITTED = {("fit_probes", *pool, place) for pool in POOLS for place in PLACES}
TOLD = (
    FITTED
    | {("compare_probes", *pool) for pool in POOLS}
    | {("transfer_probes", "strict", layer) for layer in "01"}
    | {("probe_tables",), ("make_report",)}
)
MADE = {(rule, *pool) for rule in ("step_features", "continue_steps", "judge_steps") for pool in POOLS}
FROZEN = {("train_frozen_decoder", run, "fixed", "topk", "frozen", "0", stage, layer) for run, stage in POOLS for layer in "01"}


class Study:
    """A finished study with its own labels and a judge."""

    def __init__(self, folder: Path, server: ChatServer) -> None:
        self.folder, self.server = folder, server
        self.labels = folder / "mine.csv"

    @property
    def settings(self) -> str:
        judge = f"probes.judge={{url: {self.server.url}, model: m, backoff_s: 0.01}}"
        return f"{SETTINGS} probes.labels={self.labels} {judge}"

    def planned(self, *assignments: str) -> set[tuple[str, ...]]:
        with planned({"set": " ".join([self.settings, *assignments])}, folder=self.folder) as jobs:
            return jobs

    def run(self, *words: str) -> None:
        run_study(self.folder, *words, "--config", f"set={self.settings}")

    def write_labels(self, salt: str) -> None:
        """A label for two thirds of the traces of both pools, by chance."""
        traces = [one.trace for run, stage in POOLS for one in read_traces(self.pool(run, stage))]
        drawn = {trace: hashlib.sha256(f"{salt}{trace}".encode()).digest()[0] for trace in traces}
        rows = [{"trace": trace, "mine": value % 2 == 0} for trace, value in drawn.items() if value < 170]
        pd.DataFrame([*rows, {"trace": "p0/base/0", "mine": True}]).to_csv(self.labels, index=False)

    def pool(self, run: str, stage: str) -> Path:
        return self.folder / f"results/traces/{run}/pool/{stage}/traces.parquet"

    def table(self, name: str) -> pd.DataFrame:
        return pd.read_parquet(self.folder / f"results/probes/{name}.parquet")


def judge(request: Asked, before: int) -> Answer:
    """A judge who says one or the other by the step, and now and then something else."""
    chance = hashlib.sha256(request.question.encode()).digest()[0]
    return completion("Well …" if chance < 40 else json.dumps({"correct": chance % 2 == 0, "logical": True}))


@pytest.fixture(scope="module")
def study(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    """The phase as a whole, once."""
    with pytest.MonkeyPatch.context() as patch, chat_server(judge) as server:
        patch.setenv("NO_PROXY", "127.0.0.1")
        made = Study(shutil.copytree(finished, tmp_path_factory.mktemp("probes") / "study"), server)
        made.labels.write_text("trace,mine\n")
        sampled = {("sample_traces", run, "pool", stage) for run, stage in POOLS}
        assert made.planned() == sampled | LABELLED | TOLD | MADE | FROZEN
        made.run(*(str(made.pool(*pool).relative_to(made.folder).with_name("manifest.json")) for pool in POOLS))
        made.write_labels("a")
        made.run()
        yield made


def test_every_label_reaches_its_steps(study: Study) -> None:
    for run, stage in POOLS:
        traces = read_traces(study.pool(run, stage))
        folder = study.folder / f"results/probes/labels/{run}/pool/{stage}"
        table, counts = read_step_labels(folder / "labels.parquet"), read_manifest(folder / "manifest.json", "step_labels")
        assert len(table) == counts["steps"] == sum(len(trace.step_ends) for trace in traces)
        for label in ("mine", "judge_correct"):
            assert 0 < table[label].isna().sum() < table[label].notna().sum()
        assert table["value"].notna().all()
        assert counts["user"]["unknown"] == (stage == "base"), "the one row of no trace"
        verdicts = read_manifest(study.folder / f"results/probes/verdicts/{run}/pool/{stage}/manifest.json", "step_verdicts")
        assert verdicts["unreadable"] == table["judge_correct"].isna().sum()


def test_tables_hold_a_row_for_every_cell_and_say_why_one_is_empty(study: Study) -> None:
    for name, kind in PROBE_TABLES.items():
        table = study.table(name)
        assert list(table.columns) == schema(kind).names
        assert len(pd.read_csv(study.folder / f"results/probes/{name}.csv")) == len(table) > 0
    probes = study.table("probes")
    assert set(probes["task"]) == {"mine", "judge_correct", "final_strict", "length", "first_token"}
    assert set(probes["family"]) == {"sae", "dense", "part", "random", "surface"}
    assert {"frozen_decoder.topk.max", "base_sae.topk.max", "sae.topk.mean", "words"} <= set(probes["features"])
    unknown = probes[probes["task"] == "final_strict"]
    assert unknown["not_fitted"].str.contains("prompts for t").all()  # a random model solves nothing
    for task in ("mine", "judge_correct"):
        rows = probes[(probes["task"] == task) & probes["not_fitted"].isna()]
        assert set(rows["model"]) == {"l2", "l1", "k_sparse_2", "prevalence"}
        assert (rows["missing"] > 0).all()
        assert rows["auroc"].between(0, 1).all()
    transfer = study.table("probe_transfer")
    assert set(transfer["view"]) == {"dense", "own", "frozen"}
    assert set(zip(transfer["fit_stage"], transfer["stage"], strict=True)) == {
        (one, other) for _, one in POOLS for _, other in POOLS
    }
    assert set(study.table("probe_controls")["control"]) == {"permuted", "same_length", "same_step", "before_error"}
    page = (study.folder / "results/report/report.html").read_text()
    assert 'id="probes"' in page
    assert "judge_correct" in page


def test_a_second_run_does_nothing_and_a_change_what_it_invalidates(study: Study) -> None:
    asked = len(study.server.asked)
    assert study.planned() == set()
    study.run()
    assert len(study.server.asked) == asked
    assert study.planned("probes.fits.permutations=0") == TOLD
    assert study.planned("drift.replicates=300") >= TOLD
    assert not study.planned("drift.replicates=300") & (LABELLED | MADE)
    assert study.planned("probes.value.continuations=3") == {("continue_steps", *pool) for pool in POOLS} | LABELLED | TOLD
    assert study.planned("probes.features.seed=1") == {("step_features", *pool) for pool in POOLS} | TOLD


def test_other_labels_re_run_what_reads_them_and_nothing_else(study: Study) -> None:
    asked, before = len(study.server.asked), result_digests(study.folder)
    study.write_labels("b")
    assert study.planned() == LABELLED | TOLD
    study.run(f"{FIT}/manifest.json")
    assert len(study.server.asked) == asked
    after = result_digests(study.folder)
    changed = {path for path, digest in before.items() if after[path] != digest}
    assert {str(Path(path).parent) for path in changed} == {"results/probes/labels/shared/pool/base", FIT}
    assert f"{FIT}/probes.parquet" in changed


def test_a_killed_fit_ends_with_the_same_bytes(study: Study) -> None:
    study.run(f"{FIT}/manifest.json")
    before = result_digests(study.folder)
    shutil.rmtree(study.folder / FIT)
    kill_in_a_fit(study)
    study.run(f"{FIT}/manifest.json", "--rerun-incomplete")
    assert result_digests(study.folder) == before


def kill_in_a_fit(study: Study) -> None:
    """Start a fit and kill it under way."""
    command = snakemake_command(study.folder, f"{FIT}/manifest.json", "--config", f"set={study.settings}")
    running = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    begun, deadline = study.folder / FIT / ".held_out.parquet.tmp", time.monotonic() + 300
    while not begun.exists() and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert begun.exists(), "no fit was under way"
    whole: Any = psutil.Process(running.pid)
    for process in [*whole.children(recursive=True), whole]:
        process.kill()
    running.wait()
    run_study(study.folder, "--unlock")
