"""A pool of solutions with known texts: a tiny policy's folder, its problems, and traces of what it is said to have written."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from workflow.config.prompts import PromptsConfig
from workflow.formats.manifest import write_manifest
from workflow.formats.problems import Problem, problem_id, write_problems
from workflow.formats.traces import Trace, read_traces
from workflow.language_model import load_tokenizer
from workflow.prompts import render, response_tokens
from workflow.traces.publishing import publish_traces
from workflow.traces.tracing import Response, trace_of

PROMPTS = PromptsConfig(system="Answer with ####.")
ASKED = {
    "Tom has 3 boxes of 4 pens and a dozen more. How many?": "24",
    "What is 20% of 50?": "10",
    "5 + 6 =": "11",
    "8 - 9 =": "-1",
    "7 + 7 =": "14",
    "30 - 4 =": "26",
}
WRITTEN = (
    "3 * 4 = <<3*4=12>>12\n12 + 12 = 24\n#### 24",
    "3 * 5 = 16\nso 16 + 12 = 28\n#### 28",
    "I think\nit is 24",
)
"""Solutions of every problem, right for the first one at best."""


class Pool(NamedTuple):
    """Paths of a pool."""

    problems: Path
    model: Path
    traces: Path
    manifest: Path
    policy: Path


def write_pool(folder: Path, model: Path, written: Sequence[str] = WRITTEN, stage: str = "base") -> Pool:
    """Each text as a solution of each problem: problems 0 and 1 in train, 2 and 3 in val, 4 and 5 in test."""
    tokenizer = load_tokenizer(model)
    problems = [
        Problem(problem_id(question), question, answer, None, ("train", "val", "test")[place // 2], place % 2, "", 1.0, f"g{place}")
        for place, (question, answer) in enumerate(ASKED.items())
    ]
    pool = Pool(folder / "problems.parquet", model, folder / "traces.parquet", folder / "manifest.json", folder / "policy.json")
    folder.mkdir(parents=True, exist_ok=True)
    write_problems(pool.problems, problems)
    publish(pool, [one for problem in problems for one in _solutions(tokenizer, problem, written, stage)])
    digests = {"digest": hashlib.sha256(str(model).encode()).hexdigest(), "tokenizer": "t" * 64}
    write_manifest(pool.policy, "policy", run="shared", stage=stage, **digests)
    return pool


def publish(pool: Pool, traces: Sequence[Trace]) -> None:
    """Write the traces of a pool with their manifest."""
    publish_traces(traces, pool.traces, pool.manifest)


def without_steps(pool: Pool, folder: Path) -> Pool:
    """A pool whose policy wrote nothing, beside the other one."""
    folder.mkdir(parents=True, exist_ok=True)
    empty = pool._replace(traces=folder / "traces.parquet", manifest=folder / "manifest.json")
    publish(
        empty,
        [one._replace(token_ids=one.token_ids[: one.prompt_tokens], step_ends=[], response="", logprobs=[], strict=False,
                      flexible=False) for one in read_traces(pool.traces)],
    )  # fmt: skip
    return empty


def _solutions(tokenizer, problem: Problem, written: Sequence[str], stage: str) -> list[Trace]:
    prompt = render(tokenizer, problem._asdict(), PROMPTS)
    responses = [response_tokens(tokenizer, text) for text in written]
    return [
        trace_of(
            tokenizer, problem, prompt, Response(tokens, [-0.5] * len(tokens), True), origin=stage, sample=sample, separator="\n"
        )
        for sample, tokens in enumerate(responses)
    ]  # fmt: skip
