"""Verdicts of another language model on steps; every answer is kept as it comes, and one that cannot be read says nothing."""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from workflow.config.probes import JudgeConfig
from workflow.config.section import ConfigError
from workflow.endpoint import Endpoint, Messages, Reply
from workflow.formats.files import file_digest, remove_scratch, replacing, scratch_folder
from workflow.formats.manifest import write_manifest
from workflow.formats.parquet import ROWS_PER_GROUP
from workflow.formats.problems import read_problems
from workflow.formats.traces import stream_traces
from workflow.language_model import load_tokenizer
from workflow.progress import Progress
from workflow.trace_steps import StepCutter, checked_traces

ARTEFACT = "step_verdicts"
VERDICTS = pa.schema(
    [
        ("trace", pa.string()),
        ("step", pa.int32()),
        ("judge_correct", pa.bool_()),
        ("judge_logical", pa.bool_()),
        ("answer", pa.string()),
        ("fault", pa.string()),
    ]
)
"""A row for every step of a pool, in the order of its traces; `answer` as it came, `fault` where there is no verdict."""
TASK = (
    "You grade one step of a solution to a problem. The step is correct if everything it states and computes is true. It is "
    "logical if it follows from the problem and the steps before it and leads towards the answer. Grade that step alone: an error "
    "in an earlier step does not make it incorrect by itself."
)
FORMS = {
    "json": 'Answer with one JSON object and nothing else: {"correct": true or false, "logical": true or false}.',
    "lines": (
        "Answer with these three lines and nothing else:\nConclusion: Correct or Incorrect\nLogicality: Logical or Illogical\n"
        "Analysis: one sentence"
    ),
}
_LINES = {
    "judge_correct": (re.compile(r"^[\W_]*Conclusion[\W_]*(Correct|Incorrect)[\W_]*$", re.MULTILINE), "Correct"),
    "judge_logical": (re.compile(r"^[\W_]*Logicality[\W_]*(Logical|Illogical)[\W_]*$", re.MULTILINE), "Logical"),
}


class Asked(NamedTuple):
    """A step to be judged."""

    trace: str
    step: int
    question: str
    earlier: str
    text: str

    def messages(self, answers: str) -> Messages:
        """What the judge is asked."""
        earlier = self.earlier.strip() or "(none)"
        told = f"Problem:\n{self.question}\n\nEarlier steps:\n{earlier}\n\nStep to grade:\n{self.text.strip()}"
        return [{"role": "system", "content": f"{TASK}\n{FORMS[answers]}"}, {"role": "user", "content": told}]


def judge_steps(
    *, traces: Path | str, traces_manifest: Path | str, problems: Path | str, model: Path | str, verdicts: Path | str,
    manifest: Path | str, settings: JudgeConfig, key: str,
) -> dict[str, Any]:  # fmt: skip
    """Write the verdicts on all steps of a pool and their manifest; counts for provenance.

    Args:
        traces: traces.parquet.
        traces_manifest: its manifest.
        problems: problems.parquet.
        model: folder with the tokenizer of the policy that wrote the traces.
        verdicts: the table to be written, of `VERDICTS`.
        manifest: its manifest.
        settings: of the endpoint.
        key: names the scratch folder; equal for jobs that may share answers.

    Raises:
        ConfigError: the endpoint refuses, cannot be reached, or answers nothing.
    """
    facts = checked_traces(traces, traces_manifest)
    questions = {one.problem: one.question for one in read_problems(problems)}
    cut = StepCutter(load_tokenizer(model))

    def steps() -> Iterator[Asked]:
        for trace in stream_traces(traces):
            earlier = ""
            for step in cut(trace):
                yield Asked(trace.trace, step.number, questions[trace.problem], earlier, step.text)
                earlier += step.text

    scratch = scratch_folder(verdicts, key)
    kept = KeptAnswers(scratch / "answers.jsonl")
    with Endpoint(settings) as endpoint, Progress(facts["steps"], "judge", "steps", kept.count) as progress:
        todo = islice(steps(), kept.count, None)
        wants_json = settings.answers == "json"
        for reply in endpoint.ask((one.messages(settings.answers) for one in todo), wants_json=wants_json):
            kept.add(verdict_of(reply, settings.answers))
            progress.advance(1)
        asked = endpoint.counts
    counts = _publish(steps(), kept, verdicts)
    about = {"traces": facts["digest"], "judge": settings.model, "answers": settings.answers}
    write_manifest(manifest, ARTEFACT, **about, **counts, digest=file_digest(verdicts))
    remove_scratch(scratch)
    return {"asked": asked._asdict(), "kept_from_before": kept.found}


def verdict_of(reply: Reply, answers: str) -> dict[str, Any]:
    """The columns of VERDICTS that a reply fills; of an answer that is not exactly what was asked for, none but `fault`."""
    told: dict[str, Any] = {"answer": reply.text, "fault": reply.fault}
    if reply.text is None or reply.fault:
        return told
    found = _of_json(reply.data) if answers == "json" else _of_lines(reply.text)
    told |= found or {"fault": "the answer is not of the form that was asked for"}
    return told


def _of_json(data: Any) -> Mapping[str, bool] | None:
    if not isinstance(data, dict) or any(not isinstance(data.get(name), bool) for name in ("correct", "logical")):
        return None
    return {"judge_correct": data["correct"], "judge_logical": data["logical"]}


def _of_lines(text: str) -> Mapping[str, bool] | None:
    found = {name: pattern.findall(text) for name, (pattern, _) in _LINES.items()}
    if any(len(set(said)) != 1 for said in found.values()):
        return None
    return {name: said[0] == _LINES[name][1] for name, said in found.items()}


class KeptAnswers:
    """Verdicts on the first steps of a pool, a line each; a line that a kill cut short is asked for again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        whole = path.read_bytes().rpartition(b"\n") if path.is_file() else (b"", b"", b"")
        self.count = self.found = whole[0].count(b"\n") + bool(whole[1])
        """Answers there are, and those that were there at the beginning."""
        with path.open("wb") as stream:
            stream.write(whole[0] + whole[1])

    def add(self, verdict: Mapping[str, Any]) -> None:
        """Keep the verdict on the next step."""
        with self._path.open("ab") as stream:
            stream.write(json.dumps(verdict).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        self.count += 1

    def __iter__(self) -> Iterator[dict[str, Any]]:
        with self._path.open("rb") as lines:
            yield from map(json.loads, lines)


def _publish(steps: Iterator[Asked], kept: KeptAnswers, path: Path | str) -> dict[str, int]:
    """Write the table; steps, and those without a verdict by reason."""
    counts: Counter[str] = Counter(steps=0, unanswered=0, unreadable=0)
    rows = iter(zip(steps, kept, strict=True))
    with replacing(path) as temporary, pq.ParquetWriter(temporary, VERDICTS, compression="zstd") as file:
        while group := [{"trace": one.trace, "step": one.step, **told} for one, told in islice(rows, ROWS_PER_GROUP)]:
            counts["steps"] += len(group)
            counts["unanswered"] += sum(row["answer"] is None for row in group)
            counts["unreadable"] += sum(row["answer"] is not None and row["fault"] is not None for row in group)
            file.write_table(pa.Table.from_pylist(group, schema=VERDICTS))
        if counts["steps"] and counts["steps"] == counts["unanswered"] + counts["unreadable"]:
            raise ConfigError(
                f"A judge must answer in the form it is asked for; none of {counts['steps']} answers could be read. Choose another "
                "model, or another form with probes.judge.answers."
            )
    return dict(counts)
