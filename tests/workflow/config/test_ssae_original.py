"""The configuration of the SSAE paper's code becomes section `ssae`."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from planning import ROOT

from workflow.config.section import ConfigError
from workflow.config.ssae_original import converted, main, original_values
from workflow.config.ssae_original_keys import KEYS, legacy_scalar, strict_scalar
from workflow.config.study import load_study

SHEET = """
LOG_INTERVAL: 1
ALWAYS_SAVE_CHECKPOINT: true
EVAL_ONLY: false
TASK: gsm8k-385k
TRAIN_DATA_PATH: data/gsm8k_385K_train.json
VAL_DATA_PATH: data/gsm8k_385K_valid.json
N_INPUTS: 896
SPARSITY_FACTOR: 1
L1_WEIGHT: 1e-4
L1_TARGET: 3.0
PHASE: 1
ENCODER_INIT: Qwen/Qwen2.5-0.5B
DECODER_INIT: Qwen/Qwen2.5-0.5B
MAX_ITERS: 30
EVAL_INTERVAL: 1
BATCH_SIZE: 16
WARMUP_ITERS: 2
LEARNING_RATE: 1e-6
MIN_LR: 1e-7
LR_DECAY_ITERS: 30
DECAY_LR: true
BETA1: 0.9
BETA2: 0.95
WEIGHT_DECAY: 0.01
GRAD_CLIP: 1.0
GRAD_ACCUM_STEPS: 8
DDP_BACKEND: nccl
DEVICE: cuda
TORCH_COMPILE: false
WANDB_LOG: true
CONTINUE_TRAIN: false
RESUME_CKPT_NAME: null
"""
"""configs/train.yaml with the published defaults."""
CHANGED = {
    "ALWAYS_SAVE_CHECKPOINT": (False, "training.keep", "best"),
    "EVAL_ONLY": (True, "source", "given"),
    "TASK": ("numina-859k", "data.format", "numina"),
    "TRAIN_DATA_PATH": ("a.json", "data.train", "a.json"),
    "VAL_DATA_PATH": ("b.json", "data.valid", "b.json"),
    "SPARSITY_FACTOR": (4, "factor", 4),
    "L1_WEIGHT": (0.001, "sparsity.start_weight", 0.001),
    "L1_TARGET": (5, "target_l1", 5.0),
    "PHASE": (3, "training.phase", 3),
    "ENCODER_INIT": ("m/a", "base_model", "m/a"),
    "DECODER_INIT": ("m/a", "base_model", "m/a"),
    "MAX_ITERS": (50, "training.epochs", 50),
    "EVAL_INTERVAL": (4, "training.evaluations_per_epoch", 4.0),
    "BATCH_SIZE": (4, "training.micro_batch", 4),
    "WARMUP_ITERS": (0, "training.warmup_epochs", 0),
    "LEARNING_RATE": (0.5, "training.lr", 0.5),
    "MIN_LR": (0, "training.min_lr", 0.0),
    "LR_DECAY_ITERS": (9, "training.decay_epochs", 9),
    "DECAY_LR": (False, "training.schedule", "constant"),
    "BETA1": (0.5, "training.beta1", 0.5),
    "BETA2": (0.5, "training.beta2", 0.5),
    "WEIGHT_DECAY": (0, "training.weight_decay", 0.0),
    "GRAD_CLIP": (0, "training.grad_clip", 0.0),
    "GRAD_ACCUM_STEPS": (2, "training.batch", 32),
    "TORCH_COMPILE": (True, "training.compile", True),
    "CONTINUE_TRAIN": (True, "source", "continued"),
    "RESUME_CKPT_NAME": ("other.pt", "given.model", "out_gsm8k-385k/dwa_3.0/other.pt"),
}
"""Every key with a counterpart: a value, the key that it reaches and what it is there."""
RESUMED = {"CONTINUE_TRAIN": True, "RESUME_CKPT_NAME": "step_1.pt"}


@pytest.fixture
def train_yaml(tmp_path: Path) -> Path:
    path = tmp_path / "train.yaml"
    path.write_text(SHEET)
    return path


def section_of(*assignments: str, file: Path | None = None, legacy: bool = False, **values: Any) -> dict[str, Any]:
    return converted(original_values(file, assignments, legacy=legacy) | values, legacy=legacy).section


def at(section: dict[str, Any], path: str) -> Any:
    typed = load_study({"ssae": section}).ssae.model_dump()
    for name in path.split("."):
        typed = typed[name]
    return typed


@pytest.mark.parametrize("legacy", [False, True])
def test_the_published_file_gives_the_published_training(train_yaml: Path, legacy: bool) -> None:
    found = load_study({"ssae": section_of(file=train_yaml, legacy=legacy)}).ssae
    training, sparsity = found.training, found.sparsity
    assert (found.target_l1, found.factor, found.base_model) == (3.0, 1, "Qwen/Qwen2.5-0.5B")
    assert (training.epochs, training.lr, training.min_lr, training.warmup_epochs, training.decay_epochs) == (30, 1e-6, 1e-7, 2, 30)
    assert (training.batch, training.micro_batch, training.grad_clip, training.weight_decay) == (128, 16, 1.0, 0.01)
    assert (training.beta1, training.beta2, training.noise, training.token_mask_rate) == (0.9, 0.95, 0.01, 0.1)
    assert (training.schedule, training.schedule_per, training.evaluations_per_epoch) == ("cosine", "epoch", 16.0)
    assert (sparsity.controller, sparsity.start_weight, sparsity.every, sparsity.factor) == ("stepwise", 1e-4, 100, 0.01)
    assert (sparsity.min_weight, sparsity.max_weight, found.seeds, found.source) == (1e-6, 0.1, [1337], "fresh")
    assert (found.data.format, found.data.max_context_tokens, found.data.keep_context) == ("gsm8k_aug", 256, "first")
    assert set(found.legacy.model_dump().values()) == {legacy}
    assert training.shuffle is not legacy


def test_every_published_key_is_known_and_missing_ones_have_its_value(train_yaml: Path) -> None:
    values, code = original_values(train_yaml), original_values()
    assert set(yaml.safe_load(SHEET)) | {"USE_NUMINA_DATALOADER"} == set(KEYS) == set(values)
    assert {name for name in values if values[name] != code[name]} == {"ENCODER_INIT", "DECODER_INIT"}
    assert code["ENCODER_INIT"] == code["DECODER_INIT"] == "./Qwen2.5-0.5B"


def test_every_key_has_a_counterpart_or_a_reason_in_the_output(train_yaml: Path) -> None:
    reasons = "\n".join(converted(original_values(train_yaml), legacy=False).notes)
    assert {name for name in KEYS if name not in CHANGED} == {name for name, key in KEYS.items() if key.unused}
    assert all(f"{name}: {KEYS[name].default}, without a counterpart: " in reasons for name in KEYS if name not in CHANGED)


@pytest.mark.parametrize("name", CHANGED)
def test_every_key_reaches_its_counterpart(name: str, train_yaml: Path) -> None:
    value, path, wanted = CHANGED[name]
    models = {"ENCODER_INIT": "m/a", "DECODER_INIT": "m/a"} if path == "base_model" else {}
    needed = models | RESUMED if name in ("EVAL_ONLY", "PHASE", "CONTINUE_TRAIN", "RESUME_CKPT_NAME") else models
    before = section_of(file=train_yaml, **{key: own for key, own in needed.items() if key == "RESUME_CKPT_NAME"})
    after = section_of(file=train_yaml, **needed | {name: value})
    assert at(before, path) != wanted
    assert at(after, path) == wanted


def test_two_language_models_are_refused(train_yaml: Path) -> None:
    with pytest.raises(ConfigError, match=r"DECODER_INIT must be ENCODER_INIT = Qwen/Qwen2\.5-0\.5B"):
        section_of(file=train_yaml, DECODER_INIT="m/b")


def test_assignments_go_before_the_file_and_the_last_one_before_the_others(train_yaml: Path) -> None:
    assert original_values(train_yaml, [" L1_TARGET =7", "L1_TARGET=10", "TASK=gsm8k=b"])["L1_TARGET"] == 10.0
    assert original_values(train_yaml, ["TASK=gsm8k=b"])["TASK"] == "gsm8k=b"


@pytest.mark.parametrize(("phase", "wanted"), [(1, (30, 1e-6, 1e-7)), (2, (101, 1e-4, 1e-5)), (3, (101, 1e-4, 1e-5))])
@pytest.mark.parametrize("legacy", [False, True])
def test_defaults_of_the_phase_hold_where_a_key_is_missing_or_null(
    phase: int, wanted: tuple, legacy: bool, train_yaml: Path, tmp_path: Path
) -> None:
    def found(file: Path, *more: str) -> tuple:
        values = original_values(file, [f"PHASE={phase}", *more], legacy=legacy)
        return values["MAX_ITERS"], values["LEARNING_RATE"], values["MIN_LR"]

    nearly_empty = tmp_path / "empty.json"
    nearly_empty.write_text("{}")
    assert (
        found(nearly_empty) == found(train_yaml, *(f"{name}=null" for name in ("MAX_ITERS", "LEARNING_RATE", "MIN_LR"))) == wanted
    )
    assert found(train_yaml) == (30, 1e-6, 1e-7)
    assert found(nearly_empty, "MAX_ITERS=5") == (5, *wanted[1:])


def test_a_decay_of_null_is_that_of_all_epochs(train_yaml: Path) -> None:
    assert at(section_of("LR_DECAY_ITERS=null", "MAX_ITERS=12", file=train_yaml), "training.decay_epochs") == 12


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((text, True) for text in ("true", "YES", "On")),
        *((text, False) for text in ("false", "No", "OFF")),
        *((text, None) for text in ("none", "NULL")),
        ("1_000", 1000),
        ("007", 7),
        ("-3", -3),
        ("1e-6", 1e-6),
        ("inf", math.inf),
        ("0x10", "0x10"),
        ("", ""),
        ("some words", "some words"),
    ],
)
def test_the_originals_scalars(text: str, value: Any) -> None:
    found = legacy_scalar(text)
    assert found == value
    assert type(found) is type(value)


def test_the_originals_nan_is_a_number() -> None:
    assert math.isnan(legacy_scalar("nan"))


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("BATCH_SIZE", "16", 16),
        ("L1_TARGET", "10", 10.0),
        ("LEARNING_RATE", "1e-6", 1e-6),
        ("LEARNING_RATE", "null", None),
        ("DECAY_LR", "false", False),
        ("TASK", "null", "null"),
        ("RESUME_CKPT_NAME", "1", "1"),
    ],
)
def test_strict_scalars_have_the_type_of_their_key(name: str, text: str, value: Any) -> None:
    found = strict_scalar(name, text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("BATCH_SIZE", value) for value in ("1_000", "007", "0x10", "16.0", "", "null", True, 16.5, None)),
        *(("L1_TARGET", value) for value in ("nan", "inf", "1_0", "010", "", "high", math.inf, False, "1e999")),
        *(("DECAY_LR", value) for value in ("yes", "1", 1, "", "TRUE")),
        *(("TASK", value) for value in ("", 5, None)),
    ],
)
def test_strict_scalars_of_another_type_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be .*; got .* --legacy"):
        strict_scalar(name, value)


def test_the_originals_reading_takes_what_the_strict_one_refuses() -> None:
    values = original_values(None, ["BATCH_SIZE=007", "MAX_ITERS=1_000", "GRAD_CLIP=inf", "DECAY_LR=No"], legacy=True)
    assert (values["BATCH_SIZE"], values["MAX_ITERS"], values["GRAD_CLIP"], values["DECAY_LR"]) == (7, 1000, math.inf, False)
    assert at(converted(values, legacy=True).section, "training.grad_clip") == 0, "nothing is ever clipped"


def test_unknown_keys_are_refused_with_the_nearest_and_noted_in_legacy_mode() -> None:
    with pytest.raises(ConfigError, match=r"got 'L1_TARGETS'. Did you mean L1_TARGET\?"):
        original_values(None, ["L1_TARGETS=10"])
    notes = converted(original_values(None, ["L1_TARGETS=10"], legacy=True), legacy=True).notes
    assert "L1_TARGETS: 10, unknown to the original, too" in notes


@pytest.mark.parametrize(
    ("task", "wanted"),
    [("numina-859k", "numina"), ("my_opencodeinstruct", "opencodeinstruct"), ("gsm8k-385k", "gsm8k_aug"), ("math", "gsm8k_aug")],
)
def test_the_task_names_the_format(task: str, wanted: str) -> None:
    assert at(section_of(f"TASK={task}", legacy=True), "data.format") == wanted


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["L1_TARGET"], "must have the form KEY=VALUE; got 'L1_TARGET'"),
        (["=3"], "must have the form KEY=VALUE"),
        (["TASK=math"], "hold one of numina, opencodeinstruct, gsm8k; got 'math'. Rename it."),
        (["PHASE=2"], "RESUME_CKPT_NAME must name a file where CONTINUE_TRAIN is true or PHASE above 1; got None"),
        (["EVAL_ONLY=true"], "EVAL_ONLY must have an SSAE to evaluate"),
        (["BATCH_SIZE=0"], "BATCH_SIZE must be a number above 0; got 0."),
        (["EVAL_INTERVAL=-1"], "EVAL_INTERVAL must be a number above 0"),
        (["L1_TARGET=0"], "ssae.target_l1 is not valid"),
        (["WARMUP_ITERS=30"], "ssae.training.warmup_epochs must be below"),
    ],
)
def test_what_makes_no_training_is_refused(assignments: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        section_of(*assignments)
    assert message in str(refused.value)


def test_null_for_a_key_that_training_reads_is_refused_in_legacy_mode_too() -> None:
    with pytest.raises(ConfigError, match="L1_TARGET must have a value; got null"):
        original_values(None, ["L1_TARGET=none"], legacy=True)


def test_files_without_a_use_are_noted() -> None:
    notes = "\n".join(converted(original_values(None, ["RESUME_CKPT_NAME=a.pt", "EVAL_ONLY=true"], legacy=True), legacy=True).notes)
    assert "RESUME_CKPT_NAME: a.pt, read only with CONTINUE_TRAIN" in notes
    assert "EVAL_ONLY: True, without effect" in notes


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("train.toml", "", "must end in .yaml, .yml or .json"),
        ("train.yml", "- a", "holds a list"),
        ("train.yaml", "", "holds a NoneType"),
        ("train.json", "{", "must be a readable configuration"),
        ("train.yaml", "a: [", "must be a readable configuration"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError) as refused:
        original_values(tmp_path / name)
    assert message in str(refused.value)


def test_the_command_prints_a_section_that_config_yaml_takes(train_yaml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(train_yaml), "--set", "L1_TARGET=10", "--set", "BATCH_SIZE=8", "--legacy"]) == 0
    text = capsys.readouterr().out
    assert "# WANDB_LOG: True, without a counterpart: nothing is sent anywhere" in text
    found = load_study(yaml.safe_load((ROOT / "config.yaml").read_text()) | yaml.safe_load(text)).ssae
    assert (found.target_l1, found.training.micro_batch, found.training.batch, found.stages) == (10.0, 8, 64, ["base"])
    assert found.legacy.scalar_parse


def test_the_command_tells_what_is_wrong_and_fails(train_yaml: Path) -> None:
    command = [sys.executable, "-m", "workflow.config.ssae_original", str(train_yaml), "--set", "L1_TARGTE=10"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Did you mean L1_TARGET?" in done.stderr


def test_json_and_yaml_of_the_same_values_agree(train_yaml: Path, tmp_path: Path) -> None:
    other = tmp_path / "train.json"
    other.write_text(json.dumps(yaml.safe_load(SHEET)))
    assert original_values(other) == original_values(train_yaml)
