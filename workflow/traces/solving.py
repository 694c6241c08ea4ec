"""Solutions sampled from a policy, batch by batch, so that a killed job goes on where it stopped."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from workflow.config.prompts import PromptsConfig
from workflow.formats.files import scratch_folder, write_json
from workflow.formats.parquet import read_table, write_records
from workflow.formats.problems import Problem, read_problems
from workflow.language_model import load_tokenizer
from workflow.progress import Progress
from workflow.prompts import Prompt, render
from workflow.sampling import Engine, Sampled, SamplingSettings, build_engine
from workflow.traces.publishing import publish_traces
from workflow.traces.tracing import Response, trace_of, wording

log = logging.getLogger(__name__)

VLLM_BATCH = 2048
"""vLLM schedules its own batches; it gets at least so many prompts at once."""

PIECE = pa.schema([("tokens", pa.list_(pa.int32())), ("logprobs", pa.list_(pa.float64())), ("finished", pa.bool_())])
"""Responses of one batch, in its order, as kept until the set is complete."""


class SolvingSettings(NamedTuple):
    """Which problems are solved, and how; the fields of config section `traces` have the same names."""

    splits: list[str]
    """Splits whose problems are solved."""
    samples: int
    """Solutions per problem."""
    temperature: float
    """0 is greedy."""
    top_p: float
    """Nucleus."""
    max_new_tokens: int
    """Longest response."""
    batch: int
    """Prompts decoded together."""
    seed: int
    engine: str
    """auto, transformers or vllm."""
    limit: int | dict[str, int] | None
    """Only problems with a rank below it, or below that of their split; None is all."""

    def limit_of(self, split: str) -> float:
        """Rank behind the last problem of a split that is solved."""
        limit = self.limit[split] if isinstance(self.limit, dict) else self.limit
        return float("inf") if limit is None else limit


class Task(NamedTuple):
    """One solution to be sampled."""

    problem: Problem
    prompt: Prompt
    sample: int

    @property
    def stream(self) -> str:
        """Name of its random stream, the same for every policy."""
        return f"{self.problem.problem}/{self.sample}"


def sample_traces(
    *, problems: Path | str, model: Path | str, stage: str, traces: Path | str, manifest: Path | str,
    settings: SolvingSettings, prompts: PromptsConfig, device: str, dtype: str, key: str,
) -> dict[str, Any]:  # fmt: skip
    """Write the traces that a policy samples, graded; return the facts for provenance.

    Args:
        stage: name of the policy's stage, the origin of the traces.
        device, dtype: of config section `compute`.
        key: names the scratch folder; equal for jobs that may share finished batches.
    """
    engine, facts = build_engine(settings.engine, Path(model), device, dtype)
    tokenizer = load_tokenizer(Path(model))
    tasks = tasks_of(tokenizer, problems, settings, prompts)
    scratch = _scratch(traces, key, facts)
    sampled = sample_batches(engine, tasks, settings, scratch)
    made = [
        trace_of(
            tokenizer, task.problem, task.prompt, Response(*response),
            origin=stage, sample=task.sample, separator=prompts.step_separator,
        )
        for task, response in zip(tasks, sampled, strict=True)
    ]  # fmt: skip
    meaning = ("temperature", "top_p", "max_new_tokens", "seed", "samples", "limit")
    sampling = {name: value for name, value in settings._asdict().items() if name in meaning}
    publish_traces(made, traces, manifest, sampling=sampling, **wording(tokenizer, prompts))
    shutil.rmtree(scratch)
    if not any(scratch.parent.iterdir()):
        scratch.parent.rmdir()
    return {**facts, **wording(tokenizer, prompts)}


def tasks_of(tokenizer: Any, problems: Path | str, settings: SolvingSettings, prompts: PromptsConfig) -> list[Task]:
    """Every solution to be sampled, short prompts first so that a batch pads little."""
    chosen = [p for p in read_problems(problems, settings.splits) if p.rank < settings.limit_of(p.split)]
    rendered = [(problem, render(tokenizer, problem._asdict(), prompts)) for problem in chosen]
    rendered.sort(key=lambda pair: len(pair[1].token_ids))
    return [Task(problem, prompt, sample) for problem, prompt in rendered for sample in range(settings.samples)]


def sample_batches(engine: Engine, tasks: list[Task], settings: SolvingSettings, scratch: Path) -> list[Sampled]:
    """The response to every task, in their order; batches found in `scratch` are taken from there.

    The same tasks always make the same batches, so what a batch's padding does to the last bits is the same after a kill.
    """
    size = max(settings.batch, VLLM_BATCH) if engine.name == "vllm" else settings.batch
    how = SamplingSettings(settings.temperature, settings.top_p, settings.max_new_tokens, settings.batch, settings.seed)
    batches = [tasks[start : start + size] for start in range(0, len(tasks), size)]
    pieces = [scratch / f"batch_{number:06d}.parquet" for number in range(len(batches))]
    done = sum(len(batch) for batch, piece in zip(batches, pieces, strict=True) if piece.is_file())
    if done:
        log.info("%d of %d traces were sampled before and are kept", done, len(tasks))
    with Progress(len(tasks), "sampling", "traces", done) as progress:
        for batch, piece in zip(batches, pieces, strict=True):
            if not piece.is_file():
                prompts, streams = [task.prompt.token_ids for task in batch], [task.stream for task in batch]
                responses = engine.sample(prompts, streams, how, progress.advance)
                write_records(piece, (response._asdict() for response in responses), PIECE)
    return [Sampled(**record) for piece in pieces for record in read_table(piece, PIECE).to_pylist()]


def _scratch(traces: Path | str, key: str, facts: dict[str, Any]) -> Path:
    """The scratch folder, emptied if its batches were made by another engine or number format than this job's."""
    scratch = scratch_folder(traces, key)
    made_by = scratch / "made_by.json"
    if made_by.is_file() and json.loads(made_by.read_text(encoding="utf-8")) != facts:
        log.warning("batches kept from an earlier job were sampled in another way and are dropped: %s", made_by.read_text("utf-8"))
        shutil.rmtree(scratch)
        scratch = scratch_folder(traces, key)
    write_json(made_by, facts)
    return scratch
