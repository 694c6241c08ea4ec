"""traces.parquet: what is written comes back, in order, in the same bytes, and broken traces are refused."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from workflow.config.section import ConfigError
from workflow.formats.traces import Trace, read_traces, trace_id, write_traces


def trace(problem: str = "p1", origin: str = "base", sample: int = 0, **other) -> Trace:
    fields = {
        "split": "test", "rank": 0, "token_ids": [1, 5, 6, 2, 7, 8, 9], "prompt_tokens": 4, "question_start": 1, "question_end": 3,
        "step_ends": [5, 7], "response": "17", "finished": True, "logprobs": [-0.5, -0.25, 0.0], "gold": "17",
        "strict": False, "flexible": True, "verl_strict": False, "verl_flexible": True,
    }  # fmt: skip
    return Trace(trace=trace_id(problem, origin, sample), problem=problem, origin=origin, sample=sample, **(fields | other))


TABLE = [
    trace("p3", split="train"),
    trace("p2", sample=1, rank=1),
    trace("p2", rank=1),
    trace("p2", "ppo_0008", rank=1),
    trace("p9", "reference", logprobs=[]),
    trace("p4", split="val", rank=7),
    trace("p5", token_ids=[1, 5, 6, 2], step_ends=[], logprobs=[], response="", rank=2),
]


def test_traces_come_back_in_the_order_of_the_format(tmp_path: Path) -> None:
    write_traces(tmp_path / "traces.parquet", TABLE)
    assert read_traces(tmp_path / "traces.parquet") == [TABLE[i] for i in (5, 4, 2, 1, 3, 6, 0)]
    assert read_traces(tmp_path / "traces.parquet", splits=["train", "val"]) == [TABLE[5], TABLE[0]]


def test_equal_traces_give_equal_bytes(tmp_path: Path) -> None:
    write_traces(tmp_path / "a.parquet", TABLE)
    write_traces(tmp_path / "b.parquet", TABLE[::-1])
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_logprobs_are_stored_in_single_precision(tmp_path: Path) -> None:
    write_traces(tmp_path / "traces.parquet", [trace(logprobs=[-0.1, -1 / 3, 0.0])])
    read = read_traces(tmp_path / "traces.parquet")[0].logprobs
    assert read == [float(np.float32(value)) for value in (-0.1, -1 / 3, 0.0)]


def test_other_columns_are_refused_with_their_names(tmp_path: Path) -> None:
    path = tmp_path / "traces.parquet"
    write_traces(path, TABLE)
    table = pq.read_table(path)
    pq.write_table(table.append_column("mood", table["gold"]), path)
    with pytest.raises(ConfigError, match=r"missing or of another type: none, not expected: mood \(string\)"):
        read_traces(path)


@pytest.mark.parametrize(
    ("traces", "words"),
    [
        ([trace(), trace()], "its id occurs twice"),
        ([trace()._replace(trace="p1/base/1")], "the id does not tell"),
        ([trace(split="ppo")], "the split is 'ppo'"),
        ([trace(question_end=5)], r"question 1…5 and prompt …4 do not lie in 7 tokens"),
        ([trace(question_start=3)], "do not lie in"),
        ([trace(step_ends=[5])], r"the step ends \[5\] do not rise from 4 to 7"),
        ([trace(step_ends=[4, 7])], "do not rise"),
        ([trace(step_ends=[])], "do not rise"),
        ([trace(logprobs=[])], "0 log-probabilities for 3 response tokens"),
        ([trace(origin="reference")], "3 log-probabilities"),
    ],
)
def test_broken_traces_are_not_written(tmp_path: Path, traces: list[Trace], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        write_traces(tmp_path / "traces.parquet", traces)
    assert not list(tmp_path.iterdir())
