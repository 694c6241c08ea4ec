"""Sampling batch by batch, finished batches kept, so that a killed job goes on where it stopped."""

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from workflow.formats.files import scratch_folder, write_json
from workflow.formats.parquet import read_table, write_records
from workflow.progress import Progress
from workflow.sampling import Engine, Sampled, SamplingSettings

log = logging.getLogger(__name__)

VLLM_BATCH = 2048
"""vLLM schedules its own batches; it gets at least so many prompts at once."""

PIECE = pa.schema([("tokens", pa.list_(pa.int32())), ("logprobs", pa.list_(pa.float64())), ("finished", pa.bool_())])
"""Responses of one batch, in its order, as kept until the set is complete."""


def kept_samples(
    engine: Engine, prompts: Sequence[Sequence[int]], streams: Sequence[str], how: SamplingSettings, scratch: Path
) -> list[Sampled]:
    """The response to every prompt, in their order; batches found in `scratch` are taken from there.

    The same prompts always make the same batches, so what a batch's padding does to the last bits is the same after a kill.
    """
    size = max(how.batch, VLLM_BATCH) if engine.name == "vllm" else how.batch
    batches = [slice(start, start + size) for start in range(0, len(prompts), size)]
    pieces = [scratch / f"batch_{number:06d}.parquet" for number in range(len(batches))]
    done = sum(len(prompts[batch]) for batch, piece in zip(batches, pieces, strict=True) if piece.is_file())
    if done:
        log.info("%d of %d traces were sampled before and are kept", done, len(prompts))
    with Progress(len(prompts), "sampling", "traces", done) as progress:
        for batch, piece in zip(batches, pieces, strict=True):
            if not piece.is_file():
                responses = engine.sample(prompts[batch], streams[batch], how, progress.advance)
                write_records(piece, (response._asdict() for response in responses), PIECE)
    return [Sampled(**record) for piece in pieces for record in read_table(piece, PIECE).to_pylist()]


def engine_scratch(target: Path | str, key: str, facts: dict[str, Any]) -> Path:
    """The scratch folder, emptied if its batches were made by another engine or number format than this job's."""
    scratch = scratch_folder(target, key)
    made_by = scratch / "made_by.json"
    if made_by.is_file() and json.loads(made_by.read_text(encoding="utf-8")) != facts:
        log.warning("batches kept from an earlier job were sampled in another way and are dropped: %s", made_by.read_text("utf-8"))
        shutil.rmtree(scratch)
        scratch = scratch_folder(target, key)
    write_json(made_by, facts)
    return scratch
