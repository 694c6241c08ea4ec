"""The command that trains a step-level SAE from a file of solutions, alone and under torchrun."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_steps import write_lines

from workflow.config.section import ConfigError
from workflow.formats.manifest import read_manifest
from workflow.ssae.train_alone import main, settings_of

ROOT = Path(__file__).parents[3]
SET = [
    "ssae.data.format=gsm8k", "ssae.data.valid_share=0.3", "ssae.blocks=1", "ssae.target_l1=3", "ssae.training.epochs=1",
    "ssae.training.batch=8", "ssae.training.micro_batch=2", "ssae.training.warmup_epochs=0", "ssae.training.lr=1e-3",
]  # fmt: skip


@pytest.fixture
def given(tmp_path: Path, tiny_qwen2: Path) -> list[str]:
    rows = [{"question": f"{n} + 1?", "answer": f"{n} + 1 = {n + 1}\nso\n#### {n + 1}"} for n in range(16)]
    source = write_lines(tmp_path / "train.json", rows)
    assignments = [word for one in SET for word in ("--set", one)]
    return ["--base", str(tiny_qwen2), "--data", str(source), "--device", "cpu", *assignments]


AT_TARGET = [
    "ssae.initialisation=at_target", "ssae.training.encoder_lr_multiple=0", "ssae.training.train_embeddings=false",
    "ssae.training.gradient_checkpointing=true",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("more", "options"), [([], ["--shard"]), (AT_TARGET, []), (AT_TARGET, ["--shard"])])
def test_one_call_trains_and_the_processes_of_torchrun_find_the_same(
    given: list[str], tmp_path: Path, more: list[str], options: list[str]
) -> None:
    given = [*given, *(word for one in more for word in ("--set", one))]
    released = tmp_path / "released.pt"
    assert main([*given, "--to", str(tmp_path / "alone"), *([] if more else ["--published", str(released)])]) == 0
    assert released.is_file() != bool(more)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    program = ["-m", "workflow.ssae.train_alone", *given, "--to", str(tmp_path / "two"), *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run([*launch, *program], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    one, two = (read_manifest(tmp_path / name / "manifest.json", "step_sae") for name in ("alone", "two"))
    for name in ("nll", "l1", "l0"):
        assert two[name] == pytest.approx(one[name], rel=1e-3), name
    histories = []
    for name in ("alone", "two"):
        with open(tmp_path / name / "history.csv", encoding="utf-8") as file:
            histories.append([float(row["train_nll"]) for row in csv.DictReader(file)])
    assert histories[1] == pytest.approx(histories[0], rel=1e-4)
    assert json.loads((tmp_path / "two" / "provenance.json").read_text(encoding="utf-8"))["processes"] == 2


def test_bad_settings_end_with_a_message(given: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main([*given, "--to", str(tmp_path / "a"), "--set", "ssae.training.learning=1"]) == 1
    assert "ssae.training.learning" in caplog.text or "training.learning" in caplog.text
    with pytest.raises(ConfigError, match=r"must begin with ssae\."):
        settings_of(None, ["saes.k=3"])


def test_a_file_of_settings_is_read_as_a_section_or_as_a_whole(tmp_path: Path) -> None:
    whole, alone = tmp_path / "whole.yaml", tmp_path / "alone.yaml"
    whole.write_text("ssae: {target_l1: 7, training: {epochs: 3}}\nsaes: {k: 1}\n", encoding="utf-8")
    alone.write_text("target_l1: 7\ntraining: {epochs: 3}\n", encoding="utf-8")
    found = [settings_of(file, ["ssae.training.lr=1e-5"]) for file in (whole, alone)]
    assert found[0] == found[1]
    assert (found[0].target_l1, found[0].training.epochs, found[0].training.lr) == (7, 3, 1e-5)
