"""A trace from a prompt and a response: decoded, split into steps, graded by every rule."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from workflow.answers import grade
from workflow.config.prompts import PromptsConfig
from workflow.formats.problems import Problem
from workflow.formats.traces import Trace, trace_id
from workflow.prompts import Prompt, prompt_format, step_ends


class Response(NamedTuple):
    """What stands behind a prompt; workflow.sampling.Sampled has the same fields."""

    tokens: Sequence[int]
    """Token ids, with the one that ended the response if it ended."""
    logprobs: list[float]
    """Log-probability of each token under the policy that wrote it, in nats; none for a reference solution."""
    finished: bool
    """It ended by itself."""


def trace_of(
    tokenizer: Any, problem: Problem, prompt: Prompt, response: Response, *, origin: str, sample: int, separator: str
) -> Trace:
    """The trace of one response to one problem.

    Args:
        origin: stage of the policy that wrote it, or `reference`.
        separator: prompts.step_separator.
    """
    token_ids = [*prompt.token_ids, *response.tokens]
    text = tokenizer.decode(response.tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return Trace(
        trace=trace_id(problem.problem, origin, sample),
        problem=problem.problem,
        split=problem.split,
        rank=problem.rank,
        origin=origin,
        sample=sample,
        token_ids=token_ids,
        prompt_tokens=len(prompt.token_ids),
        question_start=prompt.question_start,
        question_end=prompt.question_end,
        step_ends=step_ends(tokenizer, token_ids, len(prompt.token_ids), separator),
        response=text,
        finished=response.finished,
        logprobs=response.logprobs,
        gold=problem.answer,
        **grade(text, problem.answer)._asdict(),
    )


def wording(tokenizer: Any, prompts: PromptsConfig) -> dict[str, str]:
    """How the prompts of a set were worded: the name of the wording, and whether a chat template stands around it."""
    return {"prompt_version": prompts.version, "prompt_format": prompt_format(tokenizer)}
