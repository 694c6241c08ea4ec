"""A stage of an existing RL run as a folder of results: a hub id, a local directory, or a base with a LoRA adapter merged in."""

import json
import logging
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from workflow.config.policies import GivenStage, given_update
from workflow.config.section import ConfigError
from workflow.formats.files import publish, scratch_folder
from workflow.formats.manifest import read_manifest
from workflow.language_model import load_tokenizer, model_facts, tokenizer_digest
from workflow.model_sources import Located, locate
from workflow.policies.describe import ARTEFACT, Place, describe, stored_dtype, tokenizer_files
from workflow.policies.lora import peft_warnings
from workflow.policies.source import emptied, put

log = logging.getLogger(__name__)


def materialise_given(
    *, model: Path | str, manifest: Path | str, base: Path | str | None, run: str, given: GivenStage, key: str
) -> dict[str, Any]:
    """Put a given stage into `model` and write its manifest; facts for provenance.

    Args:
        model: folder to make.
        manifest: manifest.json to write.
        base: manifest of the base policy, None for the base itself.
        run: `shared` for the base.
        given: the stage's entry of policies.given.
        key: of the job.

    Raises:
        ConfigError: a folder or file is missing, or tokenizer or shape are not those of the base policy.
    """
    located = locate(given.model, given.revision)
    scratch = emptied(scratch_folder(model, key))
    facts = put(located, scratch)
    source, revision = given.model, located.revision
    if given.adapter:
        adapter = _locate_adapter(given.adapter, given.adapter_revision)
        _merge(located, adapter, scratch)
        source, revision = f"{source} + {given.adapter}", f"{revision} + {adapter.revision}"
    if base is not None:
        check_like_base(scratch, read_manifest(base, ARTEFACT), given.stage)
    publish(scratch, model)
    kl = 0.0 if given.stage == "base" else given.kl
    described = describe(manifest, model, Place(run, given.stage, given_update(given), kl), source, revision)
    if base is not None and described["chat_template"] != read_manifest(base, ARTEFACT)["chat_template"]:
        log.warning("stage %s has another chat template than the base, so its prompts differ", given.stage)
        facts["chat_template"] = "differs from that of the base policy: its sampled prompts differ too"
    return {**facts, "revision": revision, "dtype": described["dtype"]}


def check_like_base(folder: Path, base: dict[str, Any], stage: str) -> None:
    """Refuse a policy that does not read the base's tokens or has another shape.

    Raises:
        ConfigError: layers, width or tokenizer differ.
    """
    shape = model_facts(folder)
    if (shape.layers, shape.d_model) != (base["layers"], base["d_model"]):
        raise ConfigError(
            f"All stages must have the shape of the base policy, {base['layers']} layers × {base['d_model']}; stage {stage} has "
            f"{shape.layers} × {shape.d_model}. Give stages of one RL run, or correct the base."
        )
    if (digest := tokenizer_digest(folder)) != base["tokenizer"]:
        raise ConfigError(
            f"All stages must have the tokenizer of the base policy ({base['tokenizer'][:12]}…), or the same text would be other "
            f"tokens; stage {stage} has {digest[:12]}…. Copy the base's tokenizer files into its folder if only the files differ."
        )
    tokens = len(load_tokenizer(folder))
    if tokens > shape.vocab:
        raise ConfigError(
            f"A policy must have an embedding for each of its tokenizer's {tokens} tokens; stage {stage} has {shape.vocab}. "
            "Give the folder that its trainer saved after resizing, or its own tokenizer."
        )


def _locate_adapter(name: str, revision: str | None) -> Located:
    located = locate(name, revision)
    if not (located.folder / "adapter_config.json").is_file():
        found = ", ".join(sorted(path.name for path in located.folder.iterdir())) or "nothing"
        raise ConfigError(
            f"An adapter must be a folder with adapter_config.json and its weights; {located.folder} holds {found}. "
            "Give the folder that peft saved, or leave `adapter` out for a merged model."
        )
    return located


def _merge(located: Located, adapter: Located, folder: Path) -> None:
    """Replace the linked weights of `folder` by those with the adapter added: summed in float32, stored as the base is."""
    dtype = getattr(torch, stored_dtype(located.folder), torch.float32)
    model: Any = AutoModelForCausalLM.from_pretrained(str(located.folder), dtype=torch.float32, local_files_only=True)
    try:
        with peft_warnings():
            merged: Any = PeftModel.from_pretrained(model, str(adapter.folder)).merge_and_unload(safe_merge=True)
    except (RuntimeError, ValueError) as error:
        made_for = json.loads((adapter.folder / "adapter_config.json").read_text()).get("base_model_name_or_path")
        raise ConfigError(
            f"The adapter {adapter.folder} must fit the model {located.folder}; it does not: {str(error).splitlines()[0]}. "
            f"It was made for {made_for}: set `model` to that."
        ) from None
    kept = {path.name for path in tokenizer_files(folder)}
    for path in [path for path in folder.iterdir() if path.name not in kept]:
        path.unlink()  # a link: what it points to stays as it is
    merged.to(dtype).save_pretrained(folder)
