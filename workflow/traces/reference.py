"""The text set `fixed`: each problem's reference solution behind its prompt, the same tokens for every policy."""

from pathlib import Path
from typing import Any

from workflow.config.prompts import PromptsConfig
from workflow.config.section import ConfigError
from workflow.formats.problems import Problem, read_problems
from workflow.formats.traces import REFERENCE, SPLIT_ORDER, Trace
from workflow.language_model import load_tokenizer
from workflow.prompts import render, response_tokens
from workflow.traces.publishing import publish_traces
from workflow.traces.tracing import Response, trace_of, wording


def fixed_text(
    *, problems: Path | str, model: Path | str, traces: Path | str, manifest: Path | str, prompts: PromptsConfig
) -> dict[str, Any]:
    """Write the reference traces of all train, val and test problems; return the facts for provenance.

    Raises:
        ConfigError: a problem has no reference solution.
    """
    tokenizer = load_tokenizer(Path(model))
    found = read_problems(problems, splits=SPLIT_ORDER)
    check_solutions(found)
    publish_traces([_reference(tokenizer, problem, prompts) for problem in found], traces, manifest, **wording(tokenizer, prompts))
    return wording(tokenizer, prompts)


def check_solutions(problems: list[Problem]) -> None:
    """Refuse problems without a reference solution.

    Raises:
        ConfigError: with how many lack one.
    """
    without = [problem for problem in problems if problem.solution is None]
    if without:
        raise ConfigError(
            f"The text set `fixed` needs a reference solution of every problem; {len(without)} of {len(problems)} have none, the "
            f"first is {without[0].problem}: {without[0].question!r}. Set problems.solution to a template that gives one, or take "
            "`fixed` out of design.texts and saes.text."
        )


def _reference(tokenizer: Any, problem: Problem, prompts: PromptsConfig) -> Trace:
    response = Response(response_tokens(tokenizer, problem.solution or ""), [], True)
    prompt = render(tokenizer, problem._asdict(), prompts)
    return trace_of(tokenizer, problem, prompt, response, origin=REFERENCE, sample=0, separator=prompts.step_separator)
