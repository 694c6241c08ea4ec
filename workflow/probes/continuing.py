"""The value of a step: how often its policy, going on from the end of the step, reaches the right answer.

Source: Wang et al. 2024, Math-Shepherd (soft estimation). Of a policy that seldom succeeds the value says more of the policy than
of the step, and with n continuations it is only known to ±1/√n.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from workflow.answers import strict
from workflow.formats.files import file_digest, remove_scratch, replacing
from workflow.formats.manifest import write_manifest
from workflow.formats.parquet import ROWS_PER_GROUP, read_table, write_records
from workflow.formats.traces import Trace, stream_traces
from workflow.kept_samples import engine_scratch, kept_samples
from workflow.language_model import load_tokenizer
from workflow.sampling import Engine, SamplingSettings, build_engine
from workflow.trace_steps import StepCutter, TraceStep, checked_traces

ARTEFACT = "step_values"
VALUES = pa.schema([("trace", pa.string()), ("step", pa.int32()), ("continuations", pa.int32()), ("value", pa.float64())])
"""A row for every step of a pool, in the order of its traces; `continuations` is 0 where the response ends with the step, whose
value is then that of the response."""
WINDOW = 64
"""Traces that are continued together: what is held in memory."""


class Continuing(NamedTuple):
    """How steps are continued; the fields of config section `probes.value` have the same names."""

    continuations: int
    temperature: float
    top_p: float
    max_new_tokens: int
    seed: int
    batch: int
    """Continuations sampled together; it changes speed, not results."""
    engine: str
    """auto, transformers or vllm."""


class Point(NamedTuple):
    """The end of a step."""

    trace: Trace
    step: TraceStep

    @property
    def ends(self) -> bool:
        """Whether the response ends there."""
        return self.trace.finished and self.step.number + 1 == len(self.trace.step_ends)


def continue_steps(
    *, traces: Path | str, traces_manifest: Path | str, model: Path | str, values: Path | str, manifest: Path | str,
    settings: Continuing, device: str, dtype: str, key: str,
) -> dict[str, Any]:  # fmt: skip
    """Write the value of every step of a pool and a manifest; facts for provenance.

    Args:
        traces: traces.parquet.
        traces_manifest: its manifest.
        model: folder of the policy that wrote them.
        values: the table to be written, of `VALUES`.
        manifest: its manifest.
        settings: see there.
        device: compute.device.
        dtype: compute.dtype.
        key: names the scratch folder; equal for jobs that may share finished batches.

    Raises:
        ConfigError: the traces are not those of their manifest.
    """
    digest = checked_traces(traces, traces_manifest)["digest"]
    engine, facts = build_engine(settings.engine, Path(model), device, dtype)
    tokenizer = load_tokenizer(Path(model))
    cut, scratch = StepCutter(tokenizer), engine_scratch(values, key, facts)
    pieces = []
    for number, window in enumerate(_windows(traces)):
        piece = scratch / f"window_{number:06d}.parquet"
        if not piece.is_file():
            points = [Point(trace, step) for trace in window for step in cut(trace)]
            write_records(piece, _valued(engine, tokenizer, points, settings, scratch / f"window_{number:06d}"), VALUES)
        pieces.append(piece)
    with replacing(values) as temporary, pq.ParquetWriter(temporary, VALUES, compression="zstd") as file:
        for piece in pieces:
            file.write_table(read_table(piece, VALUES), row_group_size=ROWS_PER_GROUP)
    meaning = {name: value for name, value in settings._asdict().items() if name not in ("batch", "engine")}
    write_manifest(manifest, ARTEFACT, traces=digest, sampling=meaning, digest=file_digest(values))
    remove_scratch(scratch)
    return facts


def _windows(traces: Path | str) -> Iterator[list[Trace]]:
    every = stream_traces(traces)
    while window := list(islice(every, WINDOW)):
        yield window


def _valued(
    engine: Engine, tokenizer: Any, points: Sequence[Point], settings: Continuing, scratch: Path
) -> Iterator[Mapping[str, Any]]:
    """The values of some steps, in their order; short beginnings are continued first so that a batch pads little."""
    open_ends = sorted((point for point in points if not point.ends), key=lambda point: point.step.end)
    tasks = [(point, number) for point in open_ends for number in range(settings.continuations)]
    how = SamplingSettings(settings.temperature, settings.top_p, settings.max_new_tokens, settings.batch, settings.seed)
    prompts = [point.trace.token_ids[: point.step.end] for point, _ in tasks]
    streams = [f"{point.trace.trace}/{point.step.number}/{number}" for point, number in tasks]
    sampled = kept_samples(engine, prompts, streams, how, scratch)
    right: dict[tuple[str, int], int] = {}
    for (point, _), continuation in zip(tasks, sampled, strict=True):
        response = [*point.trace.token_ids[point.trace.prompt_tokens : point.step.end], *continuation.tokens]
        text = tokenizer.decode(response, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        name = (point.trace.trace, point.step.number)
        right[name] = right.get(name, 0) + strict(text, point.trace.gold)
    for point in points:
        name = (point.trace.trace, point.step.number)
        value = float(point.trace.strict) if point.ends else right[name] / settings.continuations
        yield {
            "trace": name[0], "step": name[1], "continuations": 0 if point.ends else settings.continuations, "value": value,
        }  # fmt: skip
