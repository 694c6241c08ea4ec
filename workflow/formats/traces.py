"""traces.parquet: one row per trace, ordered by (split: val, test, train; rank of the problem; origin; sample).

Every column MUST be there. `token_ids` holds prompt and response without padding; 0 ≤ question_start < question_end ≤
prompt_tokens; `step_ends` rises to len(token_ids), or is empty where there is no response; `logprobs` has one entry per
response token, or none for the origin `reference`. The manifest beside it is the artefact `traces`.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from workflow.config.section import ConfigError
from workflow.formats.parquet import check_columns, read_table, write_records

REFERENCE = "reference"
"""Origin of reference solutions, which no policy wrote."""

SPLIT_ORDER = ("val", "test", "train")

STREAMED = 256
"""Traces that `stream_traces` holds at a time."""


class Trace(NamedTuple):
    """One solution of one problem, as tokens, in steps, graded."""

    trace: str
    """Id: `<problem>/<origin>/<sample>`."""
    problem: str
    split: str
    rank: int
    origin: str
    """Stage of the policy that wrote it, or `reference`."""
    sample: int
    token_ids: list[int]
    """Prompt, then response, no padding."""
    prompt_tokens: int
    """Length of the prompt, chat template included."""
    question_start: int
    """First token of the user's text…"""
    question_end: int
    """…and the one behind its last; the rest of the prompt is template."""
    step_ends: list[int]
    """Token index behind each reasoning step; the first step begins at prompt_tokens."""
    response: str
    """Decoded response without special tokens."""
    finished: bool
    """It ended by itself, before the length limit."""
    logprobs: list[float]
    """Log-probability of each response token under the policy that wrote it, in nats; empty for `reference`."""
    gold: str
    """Gold answer."""
    strict: bool
    flexible: bool
    verl_strict: bool
    verl_flexible: bool
    """What the answer rules of workflow/answers.py say of the response."""


SCHEMA = pa.schema(
    [
        ("trace", pa.string()),
        ("problem", pa.string()),
        ("split", pa.string()),
        ("rank", pa.int32()),
        ("origin", pa.string()),
        ("sample", pa.int32()),
        ("token_ids", pa.list_(pa.int32())),
        ("prompt_tokens", pa.int32()),
        ("question_start", pa.int32()),
        ("question_end", pa.int32()),
        ("step_ends", pa.list_(pa.int32())),
        ("response", pa.string()),
        ("finished", pa.bool_()),
        ("logprobs", pa.list_(pa.float32())),
        ("gold", pa.string()),
        ("strict", pa.bool_()),
        ("flexible", pa.bool_()),
        ("verl_strict", pa.bool_()),
        ("verl_flexible", pa.bool_()),
    ]
)


def trace_id(problem: str, origin: str, sample: int) -> str:
    """The id of a trace."""
    return f"{problem}/{origin}/{sample}"


def write_traces(path: Path | str, traces: Sequence[Trace]) -> None:
    """Write traces.parquet, rows in the order of the format; the same traces give the same bytes.

    Raises:
        ConfigError: see check_traces.
    """
    check_traces(traces)
    ordered = sorted(traces, key=lambda t: (SPLIT_ORDER.index(t.split), t.rank, t.origin, t.sample))
    write_records(path, (trace._asdict() for trace in ordered), SCHEMA)


def read_traces(path: Path | str, splits: Iterable[str] | None = None) -> list[Trace]:
    """The traces of a table in its order; of all splits, or of those named.

    Raises:
        ConfigError: the file has other columns, or breaks the rules of the format.
    """
    traces = [Trace(**record) for record in read_table(path, SCHEMA, splits).to_pylist()]
    check_traces(traces)
    return traces


def stream_traces(path: Path | str) -> Iterator[Trace]:
    """The traces of a table in its order, a few of them in memory at a time.

    Raises:
        ConfigError: as read_traces; an id that occurs twice is seen among neighbours alone.
    """
    check_columns(path, SCHEMA)
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=STREAMED):
            traces = [Trace(**record) for record in batch.to_pylist()]
            check_traces(traces)
            yield from traces


def check_traces(traces: Sequence[Trace]) -> None:
    """Refuse traces that break the rules of the format.

    Raises:
        ConfigError: with the first trace that does, and how.
    """
    seen: set[str] = set()
    for trace in traces:
        fault = "its id occurs twice" if trace.trace in seen else _fault(trace)
        if fault:
            raise ConfigError(
                f"A trace must follow the format described in workflow/formats/traces.py; of trace {trace.trace}, {fault}. "
                "Delete its folder under results/traces and run again, it will be rebuilt."
            )
        seen.add(trace.trace)


def _fault(trace: Trace) -> str | None:
    length, prompt = len(trace.token_ids), trace.prompt_tokens
    bounds = [prompt, *trace.step_ends]
    if trace.trace != trace_id(trace.problem, trace.origin, trace.sample):
        return "the id does not tell its problem, origin and sample"
    if trace.split not in SPLIT_ORDER:
        return f"the split is {trace.split!r}, not one of {', '.join(SPLIT_ORDER)}"
    if not 0 <= trace.question_start < trace.question_end <= prompt <= length:
        return f"question {trace.question_start}…{trace.question_end} and prompt …{prompt} do not lie in {length} tokens"
    if any(a >= b for a, b in pairwise(bounds)) or bounds[-1] != length:
        return f"the step ends {trace.step_ends} do not rise from {prompt} to {length}"
    if len(trace.logprobs) != (0 if trace.origin == REFERENCE else length - prompt):
        return f"there are {len(trace.logprobs)} log-probabilities for {length - prompt} response tokens"
    return None
