"""All labels of the steps of one pool, brought together step by step: one pass over the traces."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from workflow.config.section import ConfigError
from workflow.formats.files import file_digest
from workflow.formats.manifest import write_manifest
from workflow.formats.problems import read_problems
from workflow.formats.step_labels import ARTEFACT, LABELS, StepLabelWriter
from workflow.formats.traces import Trace, stream_traces
from workflow.language_model import load_tokenizer
from workflow.probes.executable import Verdict, verdicts
from workflow.probes.user_labels import UserLabels
from workflow.trace_steps import StepCutter, TraceStep, checked_traces, step_keys

log = logging.getLogger(__name__)


class Asked(NamedTuple):
    """What is known of a problem."""

    question: str
    group: str


class Sources(NamedTuple):
    """Where labels come from beside the traces themselves; None where nothing was asked for."""

    user: UserLabels | None = None
    tables: tuple[Path | str, ...] = ()
    """Tables of `trace`, `step` and labels, a row for every step in the order of the traces."""


def label_steps(
    *, traces: Path | str, traces_manifest: Path | str, problems: Path | str, model: Path | str, labels: Path | str,
    manifest: Path | str, constants: Iterable[float], sources: Sources | None = None,
) -> dict[str, int]:  # fmt: skip
    """Write labels.parquet of a pool and its manifest; rows by label where it is known.

    Args:
        traces: traces.parquet.
        traces_manifest: its manifest.
        problems: problems.parquet.
        model: folder with the tokenizer of the policy that wrote the traces.
        labels: the table to be written.
        manifest: its manifest.
        constants: see `probes.constants`.
        sources: labels of users, of continuations and of a judge.

    Raises:
        ConfigError: traces, problems and other tables do not belong together.
    """
    sources, constants = sources or Sources(), list(constants)
    facts = checked_traces(traces, traces_manifest)
    known: Counter[str] = Counter()
    with StepLabelWriter(labels, sources.user.kinds if sources.user else None) as writer:
        made = _rows(traces, _asked(problems), StepCutter(load_tokenizer(model)), constants, sources)
        writer.add(_counted(made, known))
    user = sources.user.report() if sources.user else None
    if user and user["rows"] == user["unknown"]:
        log.warning("probes.labels: none of its %d rows for this run and stage is of a trace or step of %s", user["rows"], traces)
    write_manifest(
        manifest, ARTEFACT, traces=facts["digest"], steps=known.pop("steps", 0), known=dict(known), user=user,
        digest=file_digest(labels),
    )  # fmt: skip
    return dict(known)


def _asked(problems: Path | str) -> dict[str, Asked]:
    return {one.problem: Asked(one.question, one.group) for one in read_problems(problems)}


def _rows(
    traces: Path | str, asked: Mapping[str, Asked], cut: StepCutter, constants: list[float], sources: Sources
) -> Iterator[dict[str, Any]]:
    tables = [_records(path) for path in sources.tables]
    for trace in stream_traces(traces):
        if trace.problem not in asked:
            raise ConfigError(
                f"Every problem of a pool must be in problems.parquet; {trace.problem} of {traces} is not. Delete the traces and "
                "run again, they will be rebuilt."
            )
        problem, steps = asked[trace.problem], cut(trace)
        found = verdicts(trace, [step.text for step in steps], problem.question, constants)
        erred = False
        for step, verdict in zip(steps, found, strict=True):
            row = step_keys(trace, step, problem.group) | _of_step(trace, steps, step, verdict, erred)
            for table in tables:
                row |= _next(table, trace, step)
            if sources.user:
                row |= sources.user.of(trace.trace, step.number)
            yield row
            erred = erred or verdict.correct is False


def _of_step(trace: Trace, steps: list[TraceStep], step: TraceStep, verdict: Verdict, erred: bool) -> dict[str, Any]:
    last = step.number + 1 == len(steps)
    return {
        "text": step.text, "correct": verdict.correct, "correct_how": verdict.how, "after_first_error": erred,
        "logical": verdict.logical, "length": step.end - step.begin, "first_token": trace.token_ids[step.begin],
        "next_first_token": None if last else trace.token_ids[steps[step.number + 1].begin],
        "final_strict": trace.strict, "final_flexible": trace.flexible,
    }  # fmt: skip


def _records(path: Path | str) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches():
            yield from batch.to_pylist()


def _next(table: Iterator[dict[str, Any]], trace: Trace, step: TraceStep) -> dict[str, Any]:
    """The labels of the next row of a table, which must be of this step."""
    row = next(table, {})
    if (row.get("trace"), row.get("step")) != (trace.trace, step.number):
        raise ConfigError(
            f"Tables of labels must have a row for every step of their traces; {trace.trace}, step {step.number}, is not where it "
            "must be. Delete results/probes of this pool and run again, it will be rebuilt."
        )
    return {name: value for name, value in row.items() if name in LABELS.names}


def _counted(rows: Iterable[dict[str, Any]], known: Counter[str]) -> Iterator[dict[str, Any]]:
    """The rows as they are; steps and known labels are counted."""
    not_labels = {"problem", "group", "split", "trace", "sample", "step", "steps", "tokens", "text", "correct_how"}
    for row in rows:
        known["steps"] += 1
        known.update(name for name, value in row.items() if value is not None and name not in not_labels)
        yield row
