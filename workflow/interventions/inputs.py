"""What an intervention reads, checked before the language model is loaded."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel

from workflow.config.section import ConfigError
from workflow.devices import choose_device, choose_dtype, dtype_name
from workflow.formats.activations import RowFilter, Store
from workflow.formats.files import file_digest
from workflow.formats.manifest import read_manifest
from workflow.formats.masks import open_store, plan_rows
from workflow.formats.saes import StoredSae, read_sae
from workflow.formats.shards import ARTEFACT as SHARD
from workflow.formats.traces import Trace
from workflow.interventions.texts import SPLIT
from workflow.language_model import ModelFacts, load_model, model_facts
from workflow.residuals import check_layers, check_length


class Reading(NamedTuple):
    """How texts are read."""

    problems: int
    """Problems of the test split."""
    max_tokens: int
    """Longer texts are cut there."""
    batch_tokens: int
    """Tokens of one pass, padding included."""
    device: str
    """`auto`, `cpu` or `cuda`."""
    dtype: str
    """Of the language model: `auto`, `float32` or `bfloat16`."""


class Place(NamedTuple):
    """Where tensors live and how the language model computes."""

    device: torch.device
    dtype: torch.dtype

    def facts(self) -> dict[str, str]:
        """For provenance."""
        return {"device": str(self.device), "dtype": dtype_name(self.dtype)}


def place_of(reading: Reading) -> Place:
    """The device and number format for the settings."""
    device = choose_device(reading.device)
    return Place(device, choose_dtype(reading.dtype, device))


def load_policy(folder: Path | str, place: Place, traces: Sequence[Trace], max_tokens: int) -> PreTrainedModel:
    """A policy that can read these texts.

    Raises:
        ConfigError: a token that it does not have, or texts that are too long for it.
    """
    facts = model_facts(folder)
    for trace in traces:
        if (highest := max(trace.token_ids)) >= facts.vocab:
            raise ConfigError(
                f"A policy must read text in its own tokens, 0 to {facts.vocab - 1}; trace {trace.trace} has token {highest}. "
                "Give all stages of a run the same tokenizer."
            )
    model = load_model(folder, place.device, place.dtype)
    check_length(max(min(len(trace.token_ids), max_tokens) for trace in traces), model)
    return model


def check_layer(folder: Path | str, layer: int) -> ModelFacts:
    """Facts of a policy that has this layer.

    Raises:
        ConfigError: it has not.
    """
    facts = model_facts(folder)
    check_layers([layer], facts.layers, str(folder))
    return facts


def check_traces(path: Path | str, manifest: Path | str) -> None:
    """Refuse traces other than those that their manifest describes.

    Raises:
        ConfigError: the digests differ.
    """
    if (found := file_digest(path)) != (wanted := read_manifest(manifest, "traces")["digest"]):
        raise ConfigError(
            f"{path} must have the digest {wanted[:12]}… that {manifest} names; it has {found[:12]}…. Delete both and run again, "
            "they will be rebuilt."
        )


def open_rows(shards: Sequence[Path | str], keep: RowFilter, layer: int, d_model: int, paired: Sequence[Path | str] = ()) -> Store:
    """The kept rows of the split `test` of one layer.

    Args:
        shards: manifests of the held-out shards of one stage.
        keep: the row filter.
        layer: layer of the rows.
        d_model: their width.
        paired: where all stages read the same tokens, the held-out shards of every stage of the run: a row that the filter drops
            in any of them is dropped, as the phase drift does.

    Raises:
        ConfigError: rows of another layer, or of another width than the policy's; stages whose rows are not the same; shards that
            are not among those of all stages.
    """
    store = _paired_rows(shards, keep, paired) if paired else Store(shards, keep=keep, splits=[SPLIT])
    for name, wanted, found in (("layer", layer, store.layer), ("d_model", d_model, store.d_model)):
        if found != wanted:
            raise ConfigError(f"Rows must be of {name} = {wanted}; {shards[0]} has {found}. Extract them from the same policy.")
    return store


def _paired_rows(shards: Sequence[Path | str], keep: RowFilter, paired: Sequence[Path | str]) -> Store:
    """The rows of one stage that the filter keeps in every stage."""
    stages: dict[str, list[Path]] = {}
    for path in map(Path, paired):
        stages.setdefault(read_manifest(path, SHARD)["stage"], []).append(path)
    own = read_manifest(shards[0], SHARD)["stage"]
    if stages.get(own) != list(map(Path, shards)):
        raise ConfigError(
            f"The shards of all stages must hold those that are read, of stage {own}; got shards of {', '.join(stages)}. "
            "Give the held-out shards of every stage, in the same order."
        )
    plan = plan_rows(stages, keep, paired=True, splits=[SPLIT])
    return open_store(shards, [SPLIT]).only(plan.stages[own].keep)


def open_saes(manifests: Mapping[str, Path | str], store: Store, expected: Mapping[str, Any]) -> dict[str, StoredSae]:
    """SAEs by name.

    Args:
        manifests: their manifests by name.
        store: the rows they are put in the place of.
        expected: fields that all their manifests must have.

    Raises:
        ConfigError: an SAE of other rows, such as another width, hook point, kind or seed.
    """
    wanted = {"d_model": store.d_model, "hook_point": store.hook_point, **expected}
    found = {}
    for name, path in manifests.items():
        sae = read_sae(path)
        for field, value in wanted.items():
            if sae.facts[field] != value:
                raise ConfigError(
                    f"An SAE must have {field} = {value} to stand in the place of these rows; {path} has {sae.facts[field]}. "
                    "Train it on rows of this layer of these policies."
                )
        found[name] = sae
    return found
