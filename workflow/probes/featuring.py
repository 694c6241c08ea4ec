"""Features of the steps of one pool: one pass of the policy for all layers, block by block, so that a killed job goes on."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from workflow.backends import open_backend
from workflow.batching import tokens_per_block
from workflow.config.section import ConfigError
from workflow.devices import choose_device, choose_dtype, dtype_name
from workflow.formats.activations import RowFilter, Store, damage_set_aside
from workflow.formats.feature_pieces import Pieces, piece_file, write_piece
from workflow.formats.files import file_digest, remove_scratch, scratch_folder, write_json
from workflow.formats.manifest import read_manifest, write_manifest
from workflow.formats.problems import read_problems
from workflow.formats.saes import ARTEFACT as SAE
from workflow.formats.shards import ARTEFACT as SHARD
from workflow.formats.step_features import ARTEFACT, write_step_features
from workflow.formats.traces import stream_traces
from workflow.language_model import ModelFacts, load_model, load_tokenizer, model_facts
from workflow.probes.blocks import CutTrace, LayerPlan, Policy, blocks_of, facts_of_sets, read_block
from workflow.probes.coders import Wanted, coders
from workflow.progress import Progress
from workflow.residuals import ResidualReader, check_layers, check_length
from workflow.tail import Tail
from workflow.trace_steps import StepCutter, checked_traces

log = logging.getLogger(__name__)


class Machine(NamedTuple):
    """Where and how it is computed: config section `compute`."""

    device: str
    dtype: str
    backend: Any


class Settings(NamedTuple):
    """What is made."""

    layers: list[int]
    batch_tokens: int
    """Tokens of one forward pass."""
    wanted: Wanted
    keep: RowFilter


class Files(NamedTuple):
    """Outputs of one layer."""

    features: Path
    manifest: Path


class Inputs(NamedTuple):
    """Files that are read."""

    traces: Path | str
    traces_manifest: Path | str
    problems: Path | str
    policy: Path | str
    """Manifest of the policy that wrote the traces."""
    model: Path | str
    shards: Sequence[Path | str]
    """Manifests of held-out shards of the policy at every layer, which tell how long its rows are."""
    saes: Sequence[Path | str]
    """Manifests of SAEs at every layer: those of the stage, and behind base those of base."""


def step_features(
    *, inputs: Inputs, outputs: Sequence[Files], beside: Path | str, where: Mapping[str, str], settings: Settings, machine: Machine,
    key: str,
) -> dict[str, Any]:  # fmt: skip
    """Write features.h5 and its manifest for every layer; facts for provenance.

    Args:
        inputs: see there.
        outputs: in the order of the layers.
        beside: the scratch folder is made in the folder of this path.
        where: run, text and stage.
        settings: see there.
        machine: see there.
        key: digest of everything that the result depends on.

    Raises:
        ConfigError: traces, policy, rows and SAEs do not belong together.
    """
    traces = checked_traces(inputs.traces, inputs.traces_manifest)
    facts, device = model_facts(inputs.model), choose_device(machine.device)
    check_layers(settings.layers, facts.layers, str(inputs.model))
    dtype, backend = choose_dtype(machine.dtype, device), open_backend(machine.backend, device)
    with damage_set_aside():
        plans = [_plan(inputs, layer, where["stage"], settings, backend, device) for layer in settings.layers]
    about = {
        **{name: where[name] for name in ("run", "text", "stage")}, "traces": traces["digest"],
        "policy": read_manifest(inputs.policy, "policy")["digest"],
    }  # fmt: skip
    scratch = scratch_folder(beside, key)
    model = load_model(inputs.model, device, dtype)
    with ResidualReader(model, settings.layers) as reader:
        policy = Policy(reader, Tail(model, 0), facts.d_model, facts.vocab)
        size = tokens_per_block(settings.batch_tokens, 4 * facts.d_model * len(settings.layers))
        cut = _cut(inputs, StepCutter(load_tokenizer(inputs.model)), facts)
        without, count = _make_pieces(policy, blocks_of(cut, size), plans, settings.batch_tokens, scratch, traces["traces"])
    for plan, files, empty in zip(plans, outputs, without, strict=True):
        _publish(plan, files, Pieces(scratch / f"layer_{plan.layer}", count), {**about, "layer": plan.layer}, empty)
    remove_scratch(scratch)
    return {"device": str(device), "dtype": dtype_name(dtype), "backend": backend.name, "blocks": count}


def _plan(inputs: Inputs, layer: int, stage: str, settings: Settings, backend: Any, device: Any) -> LayerPlan:
    """Coders of one layer, and how long its rows may be."""
    shards = [path for path in inputs.shards if read_manifest(path, SHARD)["layer"] == layer]
    saes = [path for path in inputs.saes if read_manifest(path, SAE)["layer"] == layer]
    store = Store(shards, settings.keep)
    made = coders(saes, store, stage, settings.wanted, backend, device)
    return LayerPlan(layer, made, settings.keep.skip_positions, settings.keep.max_norm_multiple * store.median_norm)


def _cut(inputs: Inputs, cut: StepCutter, facts: ModelFacts) -> Iterator[CutTrace]:
    groups = {one.problem: one.group for one in read_problems(inputs.problems)}
    for trace in stream_traces(inputs.traces):
        if trace.problem not in groups or max(trace.token_ids) >= facts.vocab:
            raise ConfigError(
                f"Traces must be of problems in problems.parquet, in the {facts.vocab} tokens of the policy; {trace.trace} of "
                f"{inputs.traces} is not. Delete the traces and run again, they will be rebuilt."
            )
        yield CutTrace(trace, cut(trace), groups[trace.problem])


def _make_pieces(
    policy: Policy, blocks: Iterator[list[CutTrace]], plans: Sequence[LayerPlan], batch_tokens: int, scratch: Path, traces: int
) -> tuple[list[int], int]:
    """Make every block that is not there yet; steps without a row by layer, and the number of blocks.

    The note of a block is written behind its pieces, so a block without one is made again, to the same bytes.
    """
    without, number = [0] * len(plans), -1
    with Progress(traces, "features", "traces") as progress:
        for number, block in enumerate(blocks):
            note = scratch / f"block_{number:06d}.json"
            if not note.is_file():
                check_length(max(len(one.trace.token_ids) for one in block), policy.reader.model)
                made, empty = read_block(policy, block, plans, batch_tokens, lambda _: None)
                for plan, found in zip(plans, made, strict=True):
                    write_piece(piece_file(scratch / f"layer_{plan.layer}", number), found)
                write_json(note, empty)
            without = [a + b for a, b in zip(without, json.loads(note.read_text(encoding="utf-8")), strict=True)]
            progress.advance(len(block))
    return without, number + 1


def _publish(plan: LayerPlan, files: Files, pieces: Pieces, about: dict[str, Any], without: int) -> None:
    told = facts_of_sets(plan)
    written = write_step_features(files.features, pieces, facts=about, of_sets=told)
    write_manifest(
        files.manifest, ARTEFACT, **about, steps=written.steps, steps_without_rows=without, largest_norm=plan.largest_norm,
        sets={name: {"form": one.form, "width": one.width, **told[name]} for name, one in written.sets.items()},
        digest=file_digest(files.features),
    )  # fmt: skip
