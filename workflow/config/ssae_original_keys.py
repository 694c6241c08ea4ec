"""Keys and scalars of the configuration of the SSAE paper's code (Miaow-Lab/SSAE, configs/train.yaml)."""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from workflow.config.section import ConfigError, nearest


class Key(NamedTuple):
    """One flat upper-case key."""

    type: type
    default: Any
    """Of the code, where the file lacks the key."""
    unused: str | None = None
    """Why the key has no counterpart in section `ssae`."""
    nullable: bool = False


KEYS = {
    "LOG_INTERVAL": Key(int, 1, "jobs log by time, every 30 s"),
    "ALWAYS_SAVE_CHECKPOINT": Key(bool, True),
    "EVAL_ONLY": Key(bool, False),
    "TASK": Key(str, "gsm8k-385k"),
    "TRAIN_DATA_PATH": Key(str, "data/gsm8k_385K_train.json"),
    "VAL_DATA_PATH": Key(str, "data/gsm8k_385K_valid.json"),
    "N_INPUTS": Key(int, 896, "the width is that of the language model"),
    "SPARSITY_FACTOR": Key(int, 1),
    "L1_WEIGHT": Key(float, 1e-4),
    "L1_TARGET": Key(float, 3.0),
    "PHASE": Key(int, 1),
    "ENCODER_INIT": Key(str, "./Qwen2.5-0.5B"),
    "DECODER_INIT": Key(str, "./Qwen2.5-0.5B"),
    "MAX_ITERS": Key(int, None, nullable=True),
    "EVAL_INTERVAL": Key(float, 1),
    "BATCH_SIZE": Key(int, 16),
    "WARMUP_ITERS": Key(int, 2),
    "LEARNING_RATE": Key(float, None, nullable=True),
    "MIN_LR": Key(float, None, nullable=True),
    "LR_DECAY_ITERS": Key(int, 30, nullable=True),
    "DECAY_LR": Key(bool, True),
    "BETA1": Key(float, 0.9),
    "BETA2": Key(float, 0.95),
    "WEIGHT_DECAY": Key(float, 0.01),
    "GRAD_CLIP": Key(float, 1.0),
    "GRAD_ACCUM_STEPS": Key(int, 8),
    "DDP_BACKEND": Key(str, "nccl", "processes choose it by their device"),
    "DEVICE": Key(str, "cuda", "the device of all jobs is compute.device, auto by default"),
    "TORCH_COMPILE": Key(bool, False),
    "WANDB_LOG": Key(bool, True, "nothing is sent anywhere; history.csv and the page hold the curves"),
    "CONTINUE_TRAIN": Key(bool, False),
    "RESUME_CKPT_NAME": Key(str, None, nullable=True),
    "USE_NUMINA_DATALOADER": Key(bool, False, "nothing reads it there either, TASK decides"),
}
PHASE_DEFAULTS = {
    1: {"MAX_ITERS": 30, "LEARNING_RATE": 1e-6, "MIN_LR": 1e-7},
    2: {"MAX_ITERS": 101, "LEARNING_RATE": 1e-4, "MIN_LR": 1e-5},
    3: {"MAX_ITERS": 101, "LEARNING_RATE": 1e-4, "MIN_LR": 1e-5},
}
"""For keys that are missing or null."""
WORDS = {
    **dict.fromkeys(("true", "yes", "on"), True),
    **dict.fromkeys(("false", "no", "off"), False),
    **dict.fromkeys(("none", "null"), None),
}
STRICT = {
    int: (re.compile(r"[+-]?(0|[1-9]\d*)"), "a whole number such as 16"),
    float: (re.compile(r"[+-]?(0|[1-9]\d*)(\.\d*)?([eE][+-]?\d+)?"), "a number such as 0.95 or 1e-6"),
    bool: (re.compile("true|false"), "true or false"),
    str: (re.compile(r"(?s).+"), "a text that is not empty"),
}


def legacy_scalar(text: str) -> Any:
    """A value as the original reads it after `--set KEY=`, whatever the key: words, then what int and float take, else text.

    So `1_000` is 1000, `007` is 7, `nan` and `inf` are numbers, `0x10` and nothing at all are texts.
    """
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def strict_scalar(name: str, value: Any) -> Any:
    """A value of a file or of `--set`, in the type of its key.

    Raises:
        ConfigError: the value is of another type, not finite, or null where the key must have one.
    """
    key = KEYS[name]
    pattern, form = STRICT[key.type]
    if key.nullable:
        form += ", or null"
        if value is None or value == "null":
            return None
    if isinstance(value, str) and pattern.fullmatch(value):
        value = value == "true" if key.type is bool else key.type(value)
    elif key.type is float and type(value) is int:
        value = float(value)
    if type(value) is not key.type or value == "" or (key.type is float and not math.isfinite(float(value))):
        raise ConfigError(f"{name} must be {form}; got {value!r}. Correct it, or read it as the original does with --legacy.")
    return value


def refuse_unknown(name: str) -> None:
    """Refuse a key that the original does not have.

    Raises:
        ConfigError: see there; the nearest known key is named.
    """
    if name not in KEYS:
        guess = nearest(name, list(KEYS))
        raise ConfigError(
            f"Every key must be one of the original's configs/train.yaml; got {name!r}. "
            f"{f'Did you mean {guess}?' if guess else 'Remove it.'} Known: {', '.join(KEYS)}."
        )


def refuse_missing(values: Mapping[str, Any]) -> None:
    """Refuse null where training needs a value.

    Raises:
        ConfigError: see there.
    """
    for name, key in KEYS.items():
        if values[name] is None and not (key.nullable or key.unused):
            raise ConfigError(f"{name} must have a value; got null. Set it, or leave it out for its default, {key.default}.")
