"""Settings of the SSAE paper's code as a section `ssae`, in YAML on the standard output.

python -m workflow.config.ssae_original configs/train.yaml --set L1_TARGET=10 --set PHASE=1 > my_ssae.yaml
snakemake --configfile my_ssae.yaml

FILE is flat and upper-case, .yaml, .yml or .json. --legacy reads values and unknown keys as that code does and switches on all that
it does otherwise. Keys without a counterpart stand in the output as comments with the reason.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from workflow.config.section import ConfigError
from workflow.config.ssae_original_keys import KEYS, PHASE_DEFAULTS, legacy_scalar, refuse_missing, refuse_unknown, strict_scalar
from workflow.config.ssae_training import SsaeLegacy
from workflow.config.study import load_study

FORMATS = {"numina": "numina", "opencodeinstruct": "opencodeinstruct", "gsm8k": "gsm8k_aug"}
"""By what the name of the task holds."""
SEED = 1337
"""Fixed in the original's training script."""


class Converted(NamedTuple):
    """Section `ssae` and what did not go into it."""

    section: dict[str, Any]
    notes: list[str]
    """`KEY: value, reason`, a line each."""

    def text(self) -> str:
        """The section as YAML, notes above it as comments."""
        notes = "".join(f"# {note}\n" for note in self.notes)
        return notes + yaml.safe_dump({"ssae": self.section}, sort_keys=False, allow_unicode=True)


def original_values(file: Path | None = None, assignments: Iterable[str] = (), *, legacy: bool = False) -> dict[str, Any]:
    """All values that the original trains with: its own defaults, under the file's, under the assignments', then defaults by phase
    for what is missing or null.

    Raises:
        ConfigError: an unreadable file, an assignment without `=`; without `legacy`, an unknown key or a value of another type.
    """
    given = _read(file) if file else {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"An assignment must have the form KEY=VALUE; got {assignment!r}. Write for example L1_TARGET=10.")
        given[name.strip()] = legacy_scalar(value) if legacy else value
    if not legacy:
        for name in given:
            refuse_unknown(name)
        given = {name: strict_scalar(name, value) for name, value in given.items()}
    else:  # YAML 1.1 reads 1e-4 as text
        given = {name: legacy_scalar(value) if isinstance(value, str) else value for name, value in given.items()}
    values = {name: key.default for name, key in KEYS.items()} | given
    by_phase = PHASE_DEFAULTS.get(values["PHASE"], {})
    values |= {name: value for name, value in by_phase.items() if values[name] is None}
    refuse_missing(values)
    return values


def converted(values: Mapping[str, Any], *, legacy: bool = False) -> Converted:
    """The section `ssae` that trains with these values of the original.

    Raises:
        ConfigError: a task without a known data format, nothing to evaluate, or values that the section refuses.
    """
    notes = [f"{name}: {values[name]}, without a counterpart: {key.unused}" for name, key in KEYS.items() if key.unused]
    notes += [f"{name}: {value}, unknown to the original, too" for name, value in values.items() if name not in KEYS]
    training = _training(values, legacy)
    notes.append(
        f"EVAL_INTERVAL: {values['EVAL_INTERVAL']}, {training['evaluations_per_epoch']:g} evaluations per epoch; in the original "
        "half as many where its updates per epoch are odd"
    )
    source, given = _start(values, legacy, notes)
    encoder, decoder = values["ENCODER_INIT"], values["DECODER_INIT"]
    if decoder != encoder:
        raise ConfigError(
            f"DECODER_INIT must be ENCODER_INIT = {encoder}, encoder and decoder are copies of one language model here; got "
            f"{decoder}. Give one model for both."
        )
    section = {
        "stages": ["base"],
        "seeds": [SEED],
        "source": source,
        "given": given,
        "base_model": encoder,
        "factor": values["SPARSITY_FACTOR"],
        "target_l1": values["L1_TARGET"],
        "sparsity": {"start_weight": values["L1_WEIGHT"]},
        "data": {
            "format": _format(str(values["TASK"]), legacy),
            "train": values["TRAIN_DATA_PATH"],
            "valid": values["VAL_DATA_PATH"],
        },
        "training": training,
        "legacy": dict.fromkeys(SsaeLegacy.model_fields, legacy),
    }
    load_study({"ssae": section})
    return Converted(section, notes)


def _training(values: Mapping[str, Any], legacy: bool) -> dict[str, Any]:
    micro, accumulated, interval = (_number(values, name) for name in ("BATCH_SIZE", "GRAD_ACCUM_STEPS", "EVAL_INTERVAL"))
    training = {
        "phase": values["PHASE"],
        "epochs": values["MAX_ITERS"],
        "lr": values["LEARNING_RATE"],
        "min_lr": values["MIN_LR"],
        "warmup_epochs": values["WARMUP_ITERS"],
        "decay_epochs": values["LR_DECAY_ITERS"],
        "schedule": "cosine" if values["DECAY_LR"] else "constant",
        "batch": micro * accumulated,
        "micro_batch": micro,
        "beta1": values["BETA1"],
        "beta2": values["BETA2"],
        "weight_decay": values["WEIGHT_DECAY"],
        "grad_clip": 0 if values["GRAD_CLIP"] == math.inf else values["GRAD_CLIP"],
        "compile": values["TORCH_COMPILE"],
        # updates per epoch are compared with a count of micro-batches there
        "evaluations_per_epoch": 2 * accumulated / interval,
        "keep": "all" if values["ALWAYS_SAVE_CHECKPOINT"] else "best",
    }
    return training | ({"shuffle": False, "bucket": 1} if legacy else {})


def _number(values: Mapping[str, Any], name: str) -> Any:
    value = values[name]
    if type(value) not in (int, float) or not value > 0:
        raise ConfigError(f"{name} must be a number above 0; got {value!r}. Correct it.")
    return value


def _start(values: Mapping[str, Any], legacy: bool, notes: list[str]) -> tuple[str, dict[str, Any]]:
    """Where weights come from: source and `given`. The original looks for files in a folder named by task and target."""
    name, goes_on = values["RESUME_CKPT_NAME"], bool(values["CONTINUE_TRAIN"])
    starts = goes_on or values["PHASE"] != 1
    if not starts and name:
        notes.append(f"RESUME_CKPT_NAME: {name}, read only with CONTINUE_TRAIN or a PHASE above 1")
    if starts and not name:
        raise ConfigError(
            f"RESUME_CKPT_NAME must name a file where CONTINUE_TRAIN is true or PHASE above 1; got {name!r}, CONTINUE_TRAIN "
            f"{values['CONTINUE_TRAIN']} and PHASE {values['PHASE']}. Set RESUME_CKPT_NAME."
        )
    given = {"model": f"out_{values['TASK']}/dwa_{values['L1_TARGET']}/{name}", "resume": goes_on} if starts else {}
    if values["EVAL_ONLY"]:
        if legacy:
            notes.append(f"EVAL_ONLY: {values['EVAL_ONLY']}, without effect in the original")
        elif starts:
            return "given", given | {"resume": False}
        else:
            raise ConfigError(
                "EVAL_ONLY must have an SSAE to evaluate; got EVAL_ONLY true without one. Set CONTINUE_TRAIN=true and "
                "RESUME_CKPT_NAME, or EVAL_ONLY=false."
            )
    return ("continued" if starts else "fresh"), given


def _format(task: str, legacy: bool) -> str:
    found = next((data for part, data in FORMATS.items() if part in task), None)
    if found is None and not legacy:
        raise ConfigError(f"TASK must tell the format of the data and hold one of {', '.join(FORMATS)}; got {task!r}. Rename it.")
    return found or "gsm8k_aug"


def _read(file: Path) -> dict[str, Any]:
    if file.suffix not in (".yaml", ".yml", ".json"):
        raise ConfigError(f"A configuration must end in .yaml, .yml or .json; got {file.name}. Rename it.")
    try:
        text = file.read_text(encoding="utf-8")
        values = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} must be a readable configuration; reading it failed: {error}. Correct the file.") from None
    if not isinstance(values, dict):
        raise ConfigError(f"A configuration must hold keys and values; {file} holds a {type(values).__name__}. Correct the file.")
    return {str(name): value for name, value in values.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the section; 1 and a message where it cannot be made."""
    parser = argparse.ArgumentParser(prog="python -m workflow.config.ssae_original", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="goes before the file; repeatable")
    parser.add_argument("--legacy", action="store_true", help="read and behave as the original does")
    given = parser.parse_args(arguments)
    try:
        values = original_values(given.file, given.set, legacy=given.legacy)
        sys.stdout.write(converted(values, legacy=given.legacy).text())
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
