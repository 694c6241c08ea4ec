"""Stages of a trained run: two in a row equal one, a killed job ends with the same bytes, a stage says what it is."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from peft import PeftModel
from tiny_policy import COMPUTE, PROMPTS, TinyStudy

from workflow.config.policies import PpoConfig
from workflow.formats.files import folder_digest
from workflow.formats.manifest import read_manifest
from workflow.language_model import load_model, load_tokenizer
from workflow.policies.lora import peft_warnings
from workflow.policies.stage import make_stage
from workflow.policies.training import CurveRow

SETTINGS = PpoConfig(batch=8, minibatches=2, lr=2e-3, max_new_tokens=8, lora_rank=4, lora_alpha=8, kl_coef=0.01)


def make(study: TinyStudy, folder: Path, first: int, last: int, previous: Path | None = None, **more: object) -> Path:
    make_stage(
        base=study.base / "manifest.json", base_model=study.base / "model", problems=study.problems,
        previous=previous / "training" if previous else None, model=folder / "model", training=folder / "training",
        curve=folder / "curve.csv", manifest=folder / "manifest.json", run="strict", stage=f"ppo_{last:04d}", first_update=first,
        last_update=last, **{"ppo": SETTINGS, "prompts": PROMPTS, "compute": COMPUTE, "key": "k", **more},
    )  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def whole(tiny_study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six updates at once."""
    return make(tiny_study, tmp_path_factory.mktemp("run") / "ppo_0006", 1, 6)


def test_two_stages_in_a_row_equal_one(tiny_study: TinyStudy, whole: Path, tmp_path: Path) -> None:
    first = make(tiny_study, tmp_path / "ppo_0002", 1, 2)
    second = make(tiny_study, tmp_path / "ppo_0006", 3, 6, previous=first)
    assert folder_digest(second / "model") == folder_digest(whole / "model") != folder_digest(first / "model")
    assert folder_digest(second / "training") == folder_digest(whole / "training")
    assert (second / "manifest.json").read_bytes() == (whole / "manifest.json").read_bytes()
    parts = pd.concat([pd.read_csv(first / "curve.csv"), pd.read_csv(second / "curve.csv")], ignore_index=True)
    pd.testing.assert_frame_equal(parts, pd.read_csv(whole / "curve.csv"))
    assert not list(tmp_path.rglob(".partial"))


KILLED = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tiny_policy import TinyStudy
from test_policy_stages import make
make(TinyStudy(*map(Path, sys.argv[1:4])), Path(sys.argv[4]), 1, 6, seconds_between_saves=0)
"""


def test_a_killed_job_goes_on_and_ends_with_the_same_bytes(tiny_study: TinyStudy, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "ppo_0006"
    here = Path(__file__).resolve()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (here.parents[3], here.parents[2], here.parent)))}
    arguments = [sys.executable, "-W", "ignore", "-c", KILLED, *map(str, tiny_study), str(folder)]
    with subprocess.Popen(arguments, env=environment, stderr=subprocess.DEVNULL) as job:
        state = folder / ".partial" / "training.k" / "state.safetensors"
        deadline = time.monotonic() + 120
        while not state.exists() and job.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        job.send_signal(signal.SIGKILL)
    assert state.exists(), "the job must have saved an update before it is killed"
    assert not (folder / "manifest.json").exists()
    make(tiny_study, folder, 1, 6)
    for name in ("model", "training"):
        assert folder_digest(folder / name) == folder_digest(whole / name)
    for name in ("curve.csv", "manifest.json"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    assert not state.exists()


def test_the_manifest_says_which_policy_it_is_and_how_far_it_went(tiny_study: TinyStudy, whole: Path) -> None:
    found, base = read_manifest(whole / "manifest.json", "policy"), read_manifest(tiny_study.base / "manifest.json", "policy")
    assert (found["run"], found["stage"], found["update"]) == ("strict", "ppo_0006", 6)
    assert (found["kl_coef"], found["kl_in"], found["reward"]) == (0.01, "reward", "strict")
    assert 0 < found["kl"] < 50
    assert base["kl"] == 0
    assert base["stage"] == "base"
    assert base["run"] == "shared"
    for same in ("source", "revision", "layers", "d_model", "vocab", "architecture", "dtype", "tokenizer", "chat_template"):
        assert found[same] == base[same]
    assert found["digest"] != base["digest"]
    assert set(found["files"]) >= {"config.json", "model.safetensors", "tokenizer.json"}


def test_the_curve_has_a_row_per_update_and_no_times(whole: Path) -> None:
    curve = pd.read_csv(whole / "curve.csv")
    assert list(curve.columns) == list(CurveRow._fields)
    assert curve["update"].tolist() == [1, 2, 3, 4, 5, 6]
    assert curve["finished"].between(0, 1).all()


def test_the_saved_model_is_the_base_with_the_saved_adapter(tiny_study: TinyStudy, whole: Path) -> None:
    cpu, ids = torch.device("cpu"), torch.arange(3, 20)[None]
    base = load_model(tiny_study.base / "model", cpu, torch.float32)
    saved = load_model(whole / "model", cpu, torch.float32)
    with torch.no_grad():
        plain = base(ids).logits
        with peft_warnings():
            adapted = PeftModel.from_pretrained(base, str(whole / "training")).eval()
        torch.testing.assert_close(adapted(ids).logits, saved(ids).logits, atol=1e-5, rtol=0)
    assert float((saved(ids).logits - plain).detach().abs().max()) > 1e-2
    assert load_tokenizer(whole / "model").chat_template == load_tokenizer(tiny_study.base / "model").chat_template


def test_a_state_of_the_wrong_update_is_refused(tiny_study: TinyStudy, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must start from the state after update 2"):
        make(tiny_study, tmp_path / "x", 3, 4, previous=whole)
