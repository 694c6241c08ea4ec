"""labels.parquet: rows come back, what is missing stays missing, and other files are refused."""

from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from small_step_table import keys

from workflow.config.section import ConfigError
from workflow.formats.parquet import ROWS_PER_GROUP
from workflow.formats.step_labels import StepLabelWriter, label_names, read_step_labels, user_names


def rows(count: int = 4) -> list[dict]:
    """A row per step, labels known in every other one."""
    found = [{**row, "text": f"{number} + 1 = {number + 1}"} for trace in range(count) for number, row in enumerate(keys(trace))]
    for number, row in enumerate(found[::2]):
        row |= {
            "correct": number % 3 > 0,
            "correct_how": "arithmetic",
            "value": 0.25 * (number % 5),
            "first_token": 0,
            "mood": "glad",
        }
    return found


def write(path: Path, table: list[dict]) -> Path:
    with StepLabelWriter(path, {"mood": "text"}) as writer:
        writer.add(table)
    return path


def test_rows_come_back_in_their_order(tmp_path: Path) -> None:
    table = read_step_labels(write(tmp_path / "labels.parquet", rows()))
    assert table["text"].tolist() == [row["text"] for row in rows()]
    assert table["trace"].tolist() == [row["trace"] for row in rows()]
    assert table.loc[::2, "correct"].tolist() == [row["correct"] for row in rows()[::2]]


def test_what_is_missing_is_neither_false_nor_zero(tmp_path: Path) -> None:
    table = read_step_labels(write(tmp_path / "labels.parquet", rows()))
    for label in ("correct", "value", "first_token", "mood"):
        assert table[label].isna().tolist() == [number % 2 == 1 for number in range(len(table))], label
    assert table.loc[0, "first_token"] == 0
    assert table["logical"].isna().all()
    assert (table["correct"].fillna(True)).dtype == pd.BooleanDtype()


def test_users_columns_stand_among_the_labels(tmp_path: Path) -> None:
    path = write(tmp_path / "labels.parquet", rows())
    assert user_names(path) == ["mood"]
    assert label_names(path)[0] == "correct"
    assert label_names(path)[-1] == "mood"
    assert list(read_step_labels(path, ["trace", "mood"]).columns) == ["trace", "mood"]


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "labels.parquet", rows())
    with pytest.raises(ConfigError, match=r"temper is missing. Labels there: correct, "):
        read_step_labels(path, ["temper"])


def test_equal_rows_give_equal_bytes_however_they_come(tmp_path: Path) -> None:
    table = rows(1500)
    assert len(table) > ROWS_PER_GROUP
    with StepLabelWriter(tmp_path / "b.parquet", {"mood": "text"}) as writer:
        for row in table:
            writer.add([row])
    assert write(tmp_path / "a.parquet", table).read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0).num_rows == ROWS_PER_GROUP


def test_no_steps_make_an_empty_table(tmp_path: Path) -> None:
    assert len(read_step_labels(write(tmp_path / "labels.parquet", []))) == 0


def test_nothing_is_written_when_rows_fail(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), StepLabelWriter(tmp_path / "labels.parquet") as writer:
        writer.add([*rows(), {"step": 1 // 0}])
    assert not (tmp_path / "labels.parquet").exists()


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"got correct. Rename the column"):
        StepLabelWriter(tmp_path / "labels.parquet", {"correct": "bool"})


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "labels.parquet", rows())
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ConfigError, match=r"whole table of step labels.*Delete it and run again"):
        read_step_labels(path)


def test_another_table_is_refused(tmp_path: Path) -> None:
    pd.DataFrame({"trace": ["a"]}).to_parquet(tmp_path / "labels.parquet")
    with pytest.raises(ConfigError, match="found a table with the columns trace"):
        read_step_labels(tmp_path / "labels.parquet")
