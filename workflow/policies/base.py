"""The stage `base`: the start model, or what a short supervised warm-up makes of it."""

import csv
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from workflow.config.policies import WarmupConfig
from workflow.config.prompts import PromptsConfig
from workflow.config.study import SHARED
from workflow.devices import choose_device, choose_dtype, dtype_name
from workflow.formats.files import publish, replacing, scratch_folder
from workflow.formats.manifest import read_manifest
from workflow.formats.problems import read_problems
from workflow.language_model import load_model, load_tokenizer
from workflow.model_sources import Located
from workflow.policies.describe import ARTEFACT, Place, describe, save_policy
from workflow.policies.source import emptied, put
from workflow.policies.warmup import WarmupRow, warm_up

log = logging.getLogger(__name__)


def make_base(
    *, start: Path | str, start_model: Path | str, problems: Path | str, model: Path | str, manifest: Path | str, curve: Path | str,
    warmup: WarmupConfig, lora: Mapping[str, int], prompts: PromptsConfig, compute: Mapping[str, str], key: str,
) -> dict[str, Any]:  # fmt: skip
    """Put the base policy into `model`, its warm-up into `curve`, and write its manifest; facts for provenance.

    Args:
        start: manifest of the start model.
        start_model: its folder.
        problems: problems.parquet, of which the split warmup is used.
        model: folder to make; with no updates it holds links to the start model's files.
        manifest: manifest.json to write.
        curve: csv with the columns update and loss.
        warmup: settings; 0 updates need no problems.
        lora: `rank` and `alpha`.
        prompts: how a problem is put to the policy.
        compute: `device` and `dtype`; the base is stored in the number format it was trained in.
        key: of the job.

    Raises:
        ConfigError: no problem of the split warmup has a reference solution.
    """
    facts_of_start, folder = read_manifest(start, ARTEFACT), Path(start_model)
    scratch = emptied(scratch_folder(model, key))
    if not warmup.updates:
        facts, rows = put(Located(folder.resolve(), None, "start"), scratch), []
    else:
        device = choose_device(compute["device"])
        dtype = choose_dtype(compute["dtype"], device)
        facts = {"device": str(device), "dtype": dtype_name(dtype)}
        warmed, rows = warm_up(
            load_model(folder, device, dtype), load_tokenizer(folder), read_problems(problems, ["warmup"]), warmup,
            lora["rank"], lora["alpha"], prompts,
        )  # fmt: skip
        save_policy(warmed, folder, scratch)
    publish(scratch, model)
    write_curve(curve, WarmupRow._fields, rows)
    place = Place(SHARED, "base", 0, kl=0.0)
    describe(manifest, model, place, facts_of_start["source"], facts_of_start["revision"])
    return facts


def write_curve(path: Path | str, columns: Iterable[str], rows: Iterable[NamedTuple]) -> None:
    """Write rows as csv, numbers with six digits."""
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([f"{value:.6g}" if isinstance(value, float) else value for value in row] for row in rows)
