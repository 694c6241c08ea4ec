"""Solutions sampled from a policy, batch by batch, so that a killed job goes on where it stopped."""

from pathlib import Path
from typing import Any, NamedTuple

from workflow.config.prompts import PromptsConfig
from workflow.formats.files import remove_scratch
from workflow.formats.problems import Problem, read_problems
from workflow.kept_samples import engine_scratch, kept_samples
from workflow.language_model import load_tokenizer
from workflow.prompts import Prompt, render
from workflow.sampling import SamplingSettings, build_engine
from workflow.traces.publishing import publish_traces
from workflow.traces.tracing import Response, trace_of, wording


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
    scratch = engine_scratch(traces, key, facts)
    how = SamplingSettings(settings.temperature, settings.top_p, settings.max_new_tokens, settings.batch, settings.seed)
    sampled = kept_samples(engine, [task.prompt.token_ids for task in tasks], [task.stream for task in tasks], how, scratch)
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
    remove_scratch(scratch)
    return {**facts, **wording(tokenizer, prompts)}


def tasks_of(tokenizer: Any, problems: Path | str, settings: SolvingSettings, prompts: PromptsConfig) -> list[Task]:
    """Every solution to be sampled, short prompts first so that a batch pads little."""
    chosen = [p for p in read_problems(problems, settings.splits) if p.rank < settings.limit_of(p.split)]
    rendered = [(problem, render(tokenizer, problem._asdict(), prompts)) for problem in chosen]
    rendered.sort(key=lambda pair: len(pair[1].token_ids))
    return [Task(problem, prompt, sample) for problem, prompt in rendered for sample in range(settings.samples)]
