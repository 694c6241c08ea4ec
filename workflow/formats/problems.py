"""problems.parquet: one row per problem, ordered by split (warmup, ppo, train, val, test) and rank.

Every column MUST be there; `solution` MAY be null, `stratum` MAY be "". Ids are unique, ranks of a split are 0, 1, …, and
problems of one group lie in one split. The manifest beside it is the artefact `problems`.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from workflow.config.section import ConfigError
from workflow.formats.parquet import read_table, write_records

SPLIT_ORDER = ("warmup", "ppo", "train", "val", "test")
"""warmup and ppo train the policies; train, val and test feed the SAEs and everything measured on them."""


class Problem(NamedTuple):
    """A question with a known answer."""

    problem: str
    """Id, see problem_id."""
    question: str
    answer: str
    """Gold answer as text."""
    solution: str | None
    """Reference solution in steps, the text of the set `fixed`."""
    split: str
    """warmup, ppo, train, val or test."""
    rank: int
    """Place in its split in the order of a salted hash: any prefix is a random sample."""
    stratum: str
    """Difficulty label, "" where there is one stratum."""
    weight: float
    """Relative probability of being drawn for policy training; its mean over a split is 1."""
    group: str
    """Near-duplicates share it, and therefore a split."""


SCHEMA = pa.schema(
    [
        ("problem", pa.string()),
        ("question", pa.string()),
        ("answer", pa.string()),
        ("solution", pa.string()),
        ("split", pa.string()),
        ("rank", pa.int32()),
        ("stratum", pa.string()),
        ("weight", pa.float64()),
        ("group", pa.string()),
    ]
)


def problem_id(question: str) -> str:
    """`p` and 12 hex digits of the sha256 of the question."""
    return "p" + hashlib.sha256(question.encode()).hexdigest()[:12]


def write_problems(path: Path | str, problems: Sequence[Problem]) -> None:
    """Write problems.parquet, rows in the order of the format; the same problems give the same bytes.

    Raises:
        ConfigError: see check_problems.
    """
    check_problems(problems)
    ordered = sorted(problems, key=lambda problem: (SPLIT_ORDER.index(problem.split), problem.rank))
    write_records(path, (problem._asdict() for problem in ordered), SCHEMA)


def read_problems(path: Path | str, splits: Iterable[str] | None = None) -> list[Problem]:
    """The problems of a table, by split and rank; all splits, or those named.

    Raises:
        ConfigError: the file has other columns, or breaks the rules of the format.
    """
    problems = [Problem(**record) for record in read_table(path, SCHEMA, splits).to_pylist()]
    check_problems(problems)
    return problems


def check_problems(problems: Sequence[Problem]) -> None:
    """Refuse a table that breaks the rules of the format.

    Raises:
        ConfigError: a repeated id, an unknown split, ranks with holes, an empty question or answer, a group in two splits.
    """
    ids = [problem.problem for problem in problems]
    ranks: dict[str, list[int]] = defaultdict(list)
    homes: dict[str, set[str]] = defaultdict(set)
    for problem in problems:
        ranks[problem.split].append(problem.rank)
        homes[problem.group].add(problem.split)
    wrong = [
        (len(set(ids)) < len(ids), "an id twice"),
        (bool(set(ranks) - set(SPLIT_ORDER)), f"the splits {', '.join(sorted(ranks))}"),
        (any(sorted(places) != list(range(len(places))) for places in ranks.values()), "ranks with holes"),
        (not all(problem.question.strip() and problem.answer.strip() for problem in problems), "an empty question or answer"),
        (any(len(splits) > 1 for splits in homes.values()), "near-duplicates in two splits"),
    ]
    if found := [what for is_wrong, what in wrong if is_wrong]:
        raise ConfigError(
            "A table of problems must hold unique ids, known splits, ranks 0, 1, … in each, texts that are not empty, and each "
            f"group in one split; got {', '.join(found)}. Delete results/problems and run again, it will be rebuilt."
        )
