"""Train a step-level SAE without the workflow, from files of solutions to the files of an SSAE.

    python -m workflow.ssae.train_alone --base MODEL --data train.json --to FOLDER --set format=…
    torchrun --standalone --nproc_per_node "$NPROC_PER_NODE" -m workflow.ssae.train_alone …

Settings are those of section `ssae` (docs/ssae.md): of a YAML file, and over it assignments such as ssae.target_l1=10. Under
torchrun the processes share the steps of every update and find what one finds. A killed training goes on when it is called again.
"""

import argparse
import hashlib
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from torch import distributed

from sae_core.training.parallel import Parallel
from workflow.config.overrides import KEY, with_overrides
from workflow.config.section import ConfigError, explain
from workflow.config.ssae import SsaeConfig
from workflow.fingerprint import fingerprint
from workflow.formats.files import file_digest, folder_digest, write_json
from workflow.formats.steps import FILE
from workflow.ssae.forms import StepRules
from workflow.ssae.step_cache import step_cache
from workflow.ssae.training import train_step_sae

log = logging.getLogger(__name__)


def settings_of(file: Path | None, assignments: Sequence[str]) -> SsaeConfig:
    """Section `ssae` of a YAML file, which may also hold it alone, with the assignments over it.

    Raises:
        ConfigError: a key is unknown or a value not valid.
    """
    given: Any = yaml.safe_load(file.read_text(encoding="utf-8")) if file else {}
    if not isinstance(given, dict):
        raise ConfigError(f"{file} must hold section ssae, or a configuration with it; it holds {type(given).__name__}.")
    section = given.get("ssae", given)
    found = with_overrides({"ssae": section, KEY: " ".join(assignments)})
    if other := set(found) - {"ssae"}:
        raise ConfigError(
            f"Assignments must begin with ssae., such as ssae.target_l1=10; got {', '.join(sorted(other))}. Correct them."
        )
    try:
        return SsaeConfig(**found["ssae"])
    except ValidationError as error:
        raise explain(error, SsaeConfig) from None


def train(options: argparse.Namespace, parallel: Parallel) -> dict[str, Any]:
    """Make the steps, by the first process, and train."""
    settings = settings_of(options.config, options.set)
    named = {"train": options.data or settings.data.train, "valid": options.valid or settings.data.valid}
    data = {name: Path(source) for name, source in named.items() if source}
    if "train" not in data:
        raise ConfigError("A file of solutions must be given to train on; there is none. Give --data, or set ssae.data.train.")
    folders = {name: options.to.parent / f"{options.to.name}.steps" / name for name in data}
    if parallel.both.index == 0:
        for name, folder in folders.items():
            step_cache(source=data[name], tokenizer=options.base, rules=StepRules.of(settings.data, settings.legacy), folder=folder)
    if parallel.both.size > 1:
        distributed.barrier(group=parallel.both.group)
    digests = {name: file_digest(folder / FILE) for name, folder in folders.items()}
    given = options.given or (Path(settings.given.model) if settings.given.model else None)
    parts = [
        settings.params(), options.seed, options.shard, digests, folder_digest(options.base), given and file_digest(given),
        fingerprint("workflow/ssae/train_alone.py"),
    ]  # fmt: skip
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
    return train_step_sae(
        steps=folders["train"] / FILE, valid=folders["valid"] / FILE if "valid" in folders else None, base=options.base,
        given=given,
        folder=options.to, settings=settings, seed=options.seed, device=options.device, key=key, steps_digest=digests["train"],
        parallel=parallel, shard=options.shard, published=options.published, save_seconds=60 * options.save_minutes,
    )  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m workflow.ssae.train_alone", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", type=Path, required=True, help="folder of the base model")
    parser.add_argument("--to", type=Path, required=True, help="folder of the SSAE; its steps go beside it")
    parser.add_argument("--data", help="solutions to train on: JSON Lines, or traces.parquet; over ssae.data.train")
    parser.add_argument("--valid", help="held-out solutions; over ssae.data.valid")
    parser.add_argument("--config", type=Path, help="YAML with section ssae")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="such as ssae.training.lr=1e-5; repeatable")
    parser.add_argument("--given", type=Path, help="manifest.json of an SSAE, or a published file, to start from")
    parser.add_argument("--published", type=Path, help="also write the last state in the released layout, with AdamW's moments")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument(
        "--shard", action="store_true", help="processes share the weights, for models that one device does not hold"
    )
    parser.add_argument("--save-minutes", type=float, default=10.0, help="between states from which a killed training goes on")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when the SSAE is written, else 1."""
    options = _parser().parse_args(arguments)
    parallel = Parallel.from_environment()
    if parallel.both.index > 0:
        logging.getLogger().setLevel(logging.WARNING)
    try:
        told = train(options, parallel)
        if parallel.both.index == 0:
            write_json(options.to / "provenance.json", told)
            log.info("%s", ", ".join(f"{name} {value}" for name, value in told.items()))
    except ConfigError as error:
        log.error("%s", error)
        return 1
    finally:
        parallel.close()
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(main())
