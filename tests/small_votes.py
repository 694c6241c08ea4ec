"""Pools of made-up traces and scores of their steps, for tests of voting."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from workflow.answers import grade
from workflow.formats.probe_scores import SCORES, write_probe_scores
from workflow.formats.traces import Trace, trace_id, write_traces

SETTINGS: dict[str, Any] = {
    "k": None, "curve": [1, 2, 4], "tasks": ["correct"], "features": None, "aggregations": ["mean", "min", "product", "last"],
    "taus": [0.8, 2.0], "max_subsets": 64, "flips": 99, "seed": 0,
}  # fmt: skip
BOOTSTRAP = {"replicates": 200, "confidence": 0.95, "seed": 0}
WHERE = {"run": "strict", "stage": "ppo_0002", "update": 2}


def trace(split: str, rank: int, sample: int, response: str, gold: str = "7", steps: int = 2, token: float = -0.5) -> Trace:
    """A trace of `steps` steps of one token each with this text."""
    problem = f"{split}{rank:04d}"
    ends = [3 + step for step in range(1, steps + 1)]
    return Trace(
        trace_id(problem, "base", sample), problem, split, rank, "base", sample, list(range(3 + steps)), 3, 0, 2, ends, response,
        True, [token] * steps, gold, *grade(response, gold),
    )  # fmt: skip


def write_pool(path: Path, responses: Mapping[str, list[list[str]]], **others: Any) -> list[Trace]:
    """traces.parquet of responses by split, problem and sample."""
    traces = [
        trace(split, rank, sample, text, **others)
        for split, problems in responses.items()
        for rank, texts in enumerate(problems)
        for sample, text in enumerate(texts)
    ]
    write_traces(path, traces)
    return traces


def noisy_pool(path: Path, problems: int = 40, samples: int = 8, share: float = 0.5, seed: int = 0) -> list[Trace]:
    """A pool whose answers are right with a probability of their own per problem, else one of three wrong ones."""
    draw = np.random.default_rng(seed)

    def answers() -> list[str]:
        skill = draw.beta(4 * share, 4 * (1 - share))
        wrong = draw.integers(3, size=samples)
        return [f"so\n#### {7 if right else one}" for right, one in zip(draw.random(samples) < skill, wrong, strict=True)]

    return write_pool(path, {split: [answers() for _ in range(problems)] for split in ("val", "test")})


def probe_rows(
    traces: Iterable[Trace], p: Mapping[str, list], features: str = "dense.last", task: str = "correct", layer: int = 1
) -> pa.Table:
    """Scores of the steps of traces by one probe, p by trace; a shorter list leaves steps out."""
    rows = [
        {"problem": one.problem, "split": one.split, "trace": one.trace, "sample": one.sample, "step": step, "task": task,
         "layer": layer, "features": features, "model": "l2", "p": value}
        for one in traces
        for step, value in enumerate(p[one.trace])
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=SCORES)


def write_scores(path: Path, *probes: pa.Table) -> Path:
    """scores.parquet of probes."""
    write_probe_scores(path, probes)
    return path
