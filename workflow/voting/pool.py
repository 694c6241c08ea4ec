"""A pool: the same number of sampled traces of every problem, what each answers, and what weighs it without a probe."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from workflow.answers import final_answer, final_gold
from workflow.config.section import ConfigError
from workflow.formats.parquet import check_columns
from workflow.formats.traces import SCHEMA
from workflow.frames import Table
from workflow.numbers import legacy_last_number

DEVELOPMENT, REPORTED = "val", "test"
COLUMNS = ["trace", "problem", "split", "rank", "sample", "token_ids", "prompt_tokens", "step_ends", "response", "finished",
           "logprobs", "gold", "flexible"]  # fmt: skip
BATCH = 256
"""Traces whose tokens are in memory at a time."""


class Pool(NamedTuple):
    """The traces of one split; arrays are [problem, sample]."""

    traces: Table
    """One row per trace, problem by problem, in each by sample: the columns of the table `answers` without run and stage, and
    `published`, the last number as the SSAE paper's code reads it."""
    problems: list[str]
    """In the order of the rows."""
    groups: list[str]
    """Of each problem."""
    ballots: np.ndarray
    """int64, place of each trace's answer among the answers of its problem; −1 where it has none. The places follow the sha256 of
    problem and answer: an order that ties can be broken by without a look at other traces, and without preference."""
    right: np.ndarray
    """bool [problem, answer], whether that answer is right; False beyond the answers of a problem."""

    @property
    def samples(self) -> int:
        """n, traces per problem."""
        return self.ballots.shape[1]

    @property
    def right_traces(self) -> np.ndarray:
        """bool [problem, sample]."""
        return self.column("right")

    def column(self, name: str) -> np.ndarray:
        """A column of the traces as [problem, sample]."""
        return self.traces[name].to_numpy().reshape(self.ballots.shape)


def read_pools(traces: Path | str, groups: Mapping[str, str] | None = None) -> dict[str, Pool]:
    """The pools of the splits val and test, by split, where they have traces.

    Args:
        traces: traces.parquet; other splits are left out.
        groups: of problems; None where each is one of its own.

    Raises:
        ConfigError: a problem or a group is in both splits, a problem has no group or not as many traces as others, or the
            split test has none.
    """
    frame: Table = pd.concat(_batches(traces), ignore_index=True)
    if groups is None:
        frame["group"] = frame["problem"]
    else:
        frame["group"] = frame["problem"].map(groups)
        if unknown := sorted(set(frame["problem"]) - set(groups)):
            raise ConfigError(
                f"Every problem of {traces} must be in problems.parquet; {unknown[0]} is not. Sample the traces from these "
                "problems."
            )
    for name in ("problem", "group"):
        seen = [set(frame[name][frame["split"] == split]) for split in (DEVELOPMENT, REPORTED)]
        if both := sorted(seen[0] & seen[1]):
            raise ConfigError(
                f"A {name} must be in one split, or what is chosen on development problems has seen the reported ones; {name} "
                f"{both[0]} of {traces} is in val and test. Split by groups of near-duplicates."
            )
    if not (frame["split"] == REPORTED).any():
        raise ConfigError(
            f"{traces} must hold traces of the split {REPORTED} to vote on; it holds none. Add the split to traces.pool."
        )
    return {str(split): _pool(rows, str(traces)) for split, rows in frame.groupby("split", sort=False)}


def _batches(traces: Path | str) -> list[Table]:
    check_columns(traces, SCHEMA)
    with pq.ParquetFile(traces) as file:
        batches = file.iter_batches(batch_size=BATCH, columns=COLUMNS)
        return [_read(batch.to_pandas()) for batch in batches]


def _read(batch: Table) -> Table:
    """What is kept of some traces."""
    batch = batch[batch["split"].isin([DEVELOPMENT, REPORTED])]
    logprobs = [float(np.sum(each, dtype=np.float64)) if len(each) else None for each in batch["logprobs"]]
    kept = batch[["split", "rank", "problem", "trace", "sample", "flexible", "finished"]].copy()
    answers, golds = [final_answer(text) for text in batch["response"]], [final_gold(text) for text in batch["gold"]]
    kept["answer"], kept["gold"] = _texts(kept, answers), _texts(kept, golds)
    kept["right"] = [one is not None and one == gold for one, gold in zip(answers, golds, strict=True)]
    kept["tokens"] = [len(ids) - prompt for ids, prompt in zip(batch["token_ids"], batch["prompt_tokens"], strict=True)]
    kept["steps"] = [len(ends) for ends in batch["step_ends"]]
    kept["log_probability"] = np.array(logprobs, dtype=np.float64)
    kept["published"] = _texts(kept, [legacy_last_number(text) for text in batch["response"]])
    return kept


def _texts(rows: Table, values: list[str | None]) -> Table:
    """A column in which None stays None; pandas makes NaN of it in a column of texts."""
    return pd.Series(values, index=rows.index, dtype=object)


def _pool(rows: Table, path: str) -> Pool:
    rows = rows.sort_values(["rank", "problem", "sample"], ignore_index=True)
    counts = rows.groupby("problem", sort=False).size()
    if counts.nunique() > 1:
        few, many = counts.idxmin(), counts.idxmax()
        raise ConfigError(
            f"Every problem of a pool must have as many traces as the others; in {path} {few} has {counts[few]}, {many} "
            f"{counts[many]}. Sample the same number for each."
        )
    problems = list(counts.index)
    shape = (len(problems), int(counts.iloc[0]))
    answers, gold = rows["answer"].to_numpy().reshape(shape), rows["gold"].to_numpy().reshape(shape)[:, 0]
    orders = [_order(problem, each) for problem, each in zip(problems, answers, strict=True)]
    ballots = np.array([[order.get(one, -1) for one in given] for order, given in zip(orders, answers, strict=True)])
    right = np.zeros((len(problems), max(1, max(map(len, orders)))), dtype=bool)
    for place, (order, wanted) in enumerate(zip(orders, gold, strict=True)):
        if wanted in order:
            right[place, order[wanted]] = True
    return Pool(rows, problems, list(rows["group"].to_numpy().reshape(shape)[:, 0]), ballots, right)


def _order(problem: str, answers: np.ndarray) -> dict[str, int]:
    """Places of the answers of a problem, see `Pool.ballots`."""
    found = {answer for answer in answers if answer is not None}
    return {
        answer: place
        for place, answer in enumerate(sorted(found, key=lambda one: hashlib.sha256(f"{problem}\n{one}".encode()).digest()))
    }
