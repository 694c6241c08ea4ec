"""Keys and features of a few made-up steps, for tests of probes."""

from collections.abc import Iterator

import numpy as np
from scipy.sparse import csr_array

from workflow.formats.step_features import StepBlock


def keys(trace: int, steps: int = 3, split: str = "train") -> Iterator[dict]:
    """The keys of the steps of one trace; two traces have one problem."""
    problem = f"p{trace // 2:012x}"
    for step in range(steps):
        yield {
            "problem": problem, "group": f"g{trace // 4}", "split": split, "trace": f"{problem}/base/{trace % 2}",
            "sample": trace % 2, "step": step, "steps": steps, "tokens": 4 + step,
        }  # fmt: skip


def block(traces: range, width: int = 6, seed: int = 0) -> StepBlock:
    """Steps of some traces with a dense and a sparse set."""
    rows = [row for trace in traces for row in keys(trace, 1 + trace % 3)]
    draw = np.random.default_rng([seed, traces.start])
    dense = draw.standard_normal((len(rows), width)).astype(np.float32)
    sparse = np.where(draw.random((len(rows), width)) < 0.3, dense, 0)
    columns = {name: [row[name] for row in rows] for name in rows[0]} if rows else {name: [] for name in next(keys(0))}
    return StepBlock(columns, {"dense.last": dense, "sae.topk.max": csr_array(sparse)})
