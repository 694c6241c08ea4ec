"""problems.parquet: what is written comes back, in order, in the same bytes, and broken tables are refused."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from workflow.config.problems import SPLITS
from workflow.config.section import ConfigError
from workflow.formats.problems import SPLIT_ORDER, Problem, problem_id, read_problems, write_problems


def problem(number: int, split: str = "train", rank: int = 0, **other) -> Problem:
    question = f"{number} + 1 ="
    fields = {
        "question": question,
        "answer": str(number + 1),
        "solution": None,
        "stratum": "",
        "weight": 1.0,
        "group": f"g{number}",
    }
    return Problem(problem=problem_id(question), split=split, rank=rank, **(fields | other))


TABLE = [problem(3, "test"), problem(1, rank=1, solution="1 + 1 = 2\n#### 2"), problem(2, rank=0, stratum="1", weight=0.5)]


def test_problems_come_back_by_split_and_rank(tmp_path: Path) -> None:
    write_problems(tmp_path / "problems.parquet", TABLE)
    assert read_problems(tmp_path / "problems.parquet") == [TABLE[2], TABLE[1], TABLE[0]]
    assert read_problems(tmp_path / "problems.parquet", splits=["test", "ppo"]) == [TABLE[0]]


def test_equal_problems_give_equal_bytes(tmp_path: Path) -> None:
    write_problems(tmp_path / "a.parquet", TABLE)
    write_problems(tmp_path / "b.parquet", TABLE[::-1])
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_ids_are_of_the_question_alone() -> None:
    assert problem_id("1 + 1 =") == "p1576caf25666"  # sha256 of the question
    assert problem(1).problem == problem(1, split="test", answer="3").problem


def test_the_order_of_splits_is_that_of_the_configuration() -> None:
    assert SPLIT_ORDER == SPLITS


def test_other_columns_are_refused_with_their_names(tmp_path: Path) -> None:
    path = tmp_path / "problems.parquet"
    write_problems(path, TABLE)
    pq.write_table(pq.read_table(path).drop_columns("weight"), path)
    with pytest.raises(ConfigError, match=r"missing or of another type: weight \(double\), not expected: none"):
        read_problems(path)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ([problem(1), problem(1, rank=1)], "an id twice"),
        ([problem(1, split="dev")], "the splits dev"),
        ([problem(1, rank=1)], "ranks with holes"),
        ([problem(1, answer=" ")], "an empty question or answer"),
        ([problem(1, group="g"), problem(2, split="test", group="g")], "near-duplicates in two splits"),
    ],
)
def test_a_broken_table_is_not_written(tmp_path: Path, table: list[Problem], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        write_problems(tmp_path / "problems.parquet", table)
    assert not list(tmp_path.iterdir())
