"""`training.compile` changes the speed of a training and not its losses; where torch cannot compile, it is refused."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from small_steps import write_lines

from workflow.config.ssae import SsaeConfig
from workflow.ssae.forms import StepRules
from workflow.ssae.step_cache import step_cache
from workflow.ssae.training import train_step_sae
from workflow.step_saes import stored_step_sae

ROOT = Path(__file__).parents[3]
TRIED = (
    "import torch; from workflow.ssae.compiling import _check; from workflow.config.section import ConfigError\n"
    "try: _check(torch.device('cpu'))\n"
    "except ConfigError as error: print(error)"
)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")  # torch.compile warns of what it traces, and is ended by warnings that are errors
def test_compiled_language_models_give_the_same_losses(tmp_path: Path, tiny_llama: Path) -> None:
    rows = [{"question": f"{n} + 1?", "answer": f"{n} + 1 = {n + 1}\n{'so ' * (n % 4)}\n#### {n + 1}"} for n in range(16)]
    source = write_lines(tmp_path / "a.json", rows)
    step_cache(source=source, tokenizer=tiny_llama, rules=StepRules(format="gsm8k"), folder=tmp_path / "steps")
    for name in ("plain", "compiled"):
        quick = {"epochs": 1, "batch": 8, "micro_batch": 4, "warmup_epochs": 0, "lr": 1e-3, "evaluations_per_epoch": 2}
        settings = SsaeConfig(
            data={"format": "gsm8k", "train": "a.json", "valid_share": 0.25}, target_l1=3.0, blocks=1,
            training=quick | {"precision": "fp32", "compile": name == "compiled", "max_updates": 3},
        )  # fmt: skip  # sections as a file gives them
        train_step_sae(
            steps=tmp_path / "steps/steps.h5", valid=None, base=tiny_llama, given=None, folder=tmp_path / name, settings=settings,
            seed=5, device="cpu", key="k", steps_digest="d",
        )  # fmt: skip
    histories = [pd.read_csv(tmp_path / name / "history.csv") for name in ("plain", "compiled")]
    pd.testing.assert_frame_equal(histories[0], histories[1], rtol=1e-5)
    weights = [stored_step_sae(tmp_path / name / "manifest.json")[0].state_dict() for name in ("plain", "compiled")]
    assert list(weights[0]) == list(weights[1])


@pytest.mark.slow
def test_without_a_compiler_it_is_refused(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", TRIED], env=environment, capture_output=True, text=True, check=True)
    assert "ssae.training.compile needs a torch.compile that works on the device cpu; here it ends with" in done.stdout
    assert "set ssae.training.compile=false" in done.stdout
