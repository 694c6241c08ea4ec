"""Extraction of one shard of every layer: settings and facts checked, blocks computed and kept, everything published."""

import contextlib
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
from transformers import PreTrainedModel

from workflow.activations.labels import row_labels
from workflow.activations.partial_shards import PartialShards
from workflow.activations.passes import Form, Texts, read_block, texts_of
from workflow.activations.selection import check_digest, check_vocabulary, select_traces, text_digest
from workflow.batching import blocks
from workflow.devices import choose_device, choose_dtype, dtype_name
from workflow.formats.files import scratch_folder
from workflow.formats.manifest import read_manifest, write_manifest
from workflow.formats.shards import ARTEFACT, describe, publish_shard, shard_files
from workflow.formats.traces import Trace
from workflow.language_model import load_model, model_facts
from workflow.progress import Progress
from workflow.residuals import ResidualReader, check_layers, check_length

log = logging.getLogger(__name__)


def extract_shard(
    *, traces: Path | str, traces_manifest: Path | str, policy: Path | str, model: Path | str, manifests: Sequence[Path | str],
    beside: Path | str, key: str, where: Mapping[str, str], settings: Mapping[str, Any], compute: Mapping[str, str],
) -> dict[str, Any]:  # fmt: skip
    """Write one shard for every layer of `settings["layers"]`; facts for provenance.

    Args:
        traces: traces.parquet.
        traces_manifest: its manifest.
        policy: manifest of the policy.
        model: its transformers folder.
        manifests: outputs, `shard_<n>.json` per layer in the order of the layers; arrays and row tables go beside them.
        beside: the scratch folder is made in the folder of this path.
        key: digest of everything that the result depends on.
        where: run, text, stage, part and shard.
        settings: of the section `activations`.
        compute: `device` and `dtype`.

    Raises:
        ConfigError: a layer that the model lacks, an empty part, tokens that it lacks, a value that cannot be stored.
    """
    facts = model_facts(model)
    check_layers(settings["layers"], facts.layers, str(model))
    device = choose_device(compute["device"])
    dtype = choose_dtype(compute["dtype"], device)
    stored = dtype_name(dtype) if settings["dtype"] == "auto" else settings["dtype"]
    form = Form(tuple(settings["layers"]), facts.d_model, stored, settings["batch_tokens"], settings["chunk_rows"])
    check_digest(traces, traces_manifest)
    chosen = select_traces(
        traces, part=where["part"], shard=int(where["shard"]),
        shards=settings["shards"], prompts_per_hop=settings["prompts_per_hop"],
    )  # fmt: skip
    check_vocabulary(chosen, facts.vocab)
    texts = texts_of(chosen, settings["max_tokens"])
    meaning = {**where, **_digests(chosen, settings["max_tokens"], policy), **_cut(chosen, texts)}
    scratch = scratch_folder(beside, key)
    shards = PartialShards(scratch, form, sum(texts.lengths))
    resumed, started = shards.done_rows, time.monotonic()
    compute_blocks(load_model(model, device, dtype), texts, form, shards)
    seconds = time.monotonic() - started
    publish_layers(shards, form, row_labels(chosen, settings["max_tokens"]), manifests, meaning)
    shutil.rmtree(scratch)
    with contextlib.suppress(OSError):  # another shard's job may be at work there
        scratch.parent.rmdir()
    rate = round((sum(texts.lengths) - resumed) / seconds, 1)
    return {
        "device": str(device), "dtype": dtype_name(dtype), "stored_dtype": stored, "rows": sum(texts.lengths),
        "resumed_rows": resumed, "tokens_per_s": rate, "traces_cut": meaning["traces_cut"],
    }  # fmt: skip


def compute_blocks(model: PreTrainedModel, texts: Texts, form: Form, shards: PartialShards) -> None:
    """Run every block that `shards` does not hold yet; blocks are written while the next one is computed."""
    check_length(max(texts.lengths), model)
    todo = list(blocks(texts.lengths, form.block_tokens))[shards.done_blocks :]
    if shards.done_blocks:
        log.info("going on after %d rows in %d blocks", shards.done_rows, shards.done_blocks)
    with (
        Progress(sum(texts.lengths), "extract", "tokens", done=shards.done_rows) as progress,
        ResidualReader(model, form.layers) as reader,
        ThreadPoolExecutor(1) as writer,
    ):
        last = None
        for block in todo:
            rows, norms = read_block(reader, texts, block, form, progress.advance)
            if last:
                last.result()
            last = writer.submit(shards.add, rows, norms)
        if last:
            last.result()


def _digests(chosen: Sequence[Trace], max_tokens: int, policy: Path | str) -> dict[str, str]:
    """Digests of model, tokenizer and text."""
    facts = read_manifest(policy, "policy")
    return {
        "model_digest": facts["digest"],
        "tokenizer_digest": facts["tokenizer"],
        "text_digest": text_digest(chosen, max_tokens),
    }


def _cut(chosen: Sequence[Trace], texts: Texts) -> dict[str, int]:
    """Tokens left out because of activations.max_tokens, and the traces that lost some."""
    lost = [len(trace.token_ids) - length for trace, length in zip(chosen, texts.lengths, strict=True)]
    return {"tokens_cut": sum(lost), "traces_cut": sum(tokens > 0 for tokens in lost)}


def publish_layers(
    shards: PartialShards, form: Form, rows: pa.Table, manifests: Sequence[Path | str], meaning: Mapping[str, Any]
) -> None:
    """Arrays and row tables first, manifests last: a manifest never stands beside half a shard."""
    norms = shards.finish()
    facts = [
        describe(shards.array(layer), rows, norms[index], layer, form.dtype, **meaning) for index, layer in enumerate(form.layers)
    ]
    digests = [
        publish_shard(shards.array(layer), shard_files(manifest), rows, norms[index])
        for index, (layer, manifest) in enumerate(zip(form.layers, manifests, strict=True))
    ]
    for manifest, fields, digest in zip(manifests, facts, digests, strict=True):
        write_manifest(manifest, ARTEFACT, **fields, rows_digest=digest)
