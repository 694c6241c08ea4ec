"""labels.parquet of a pool: every step has its row, every label its value, and what is not known is missing."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from small_pool import ASKED, WRITTEN, Pool, without_steps, write_pool

from workflow.config.section import ConfigError
from workflow.formats.manifest import read_manifest
from workflow.formats.parquet import write_records
from workflow.formats.problems import problem_id
from workflow.formats.step_labels import read_step_labels
from workflow.formats.traces import read_traces
from workflow.language_model import load_tokenizer
from workflow.probes.labelling import Sources, label_steps
from workflow.probes.user_labels import UserLabels

FIRST = problem_id(next(iter(ASKED)))


def label(pool: Pool, folder: Path, sources: Sources | None = None) -> pd.DataFrame:
    label_steps(
        traces=pool.traces, traces_manifest=pool.manifest, problems=pool.problems, model=pool.model,
        labels=folder / "labels.parquet", manifest=folder / "labels.json", constants=[1, 2, 100], sources=sources,
    )  # fmt: skip
    return read_step_labels(folder / "labels.parquet")


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory, tiny_qwen2: Path) -> Pool:
    return write_pool(tmp_path_factory.mktemp("pool"), tiny_qwen2)


def of_trace(table: pd.DataFrame, sample: int) -> pd.DataFrame:
    return table[table["trace"] == f"{FIRST}/base/{sample}"].reset_index(drop=True)


def test_every_step_has_a_row_in_the_order_of_the_traces(pool: Pool, tmp_path: Path) -> None:
    table, traces = label(pool, tmp_path), read_traces(pool.traces)
    assert table["trace"].tolist() == [trace.trace for trace in traces for _ in trace.step_ends]
    assert table["step"].tolist() == [step for trace in traces for step in range(len(trace.step_ends))]
    assert table.groupby("trace")["tokens"].sum().to_dict() == {
        trace.trace: len(trace.token_ids) - trace.prompt_tokens for trace in traces
    }
    assert set(zip(table["problem"], table["group"], strict=True)) == {
        (problem_id(question), f"g{place}") for place, question in enumerate(ASKED)
    }


def test_labels_of_planted_solutions(pool: Pool, tmp_path: Path) -> None:
    table = label(pool, tmp_path)
    right, wrong, bare = (of_trace(table, sample) for sample in range(len(WRITTEN)))
    assert right["correct"].tolist() == [True, True, True]
    assert right["correct_how"].tolist() == ["annotation", "arithmetic", "final_answer"]
    assert right["logical"].tolist() == [True, True, pd.NA]
    assert right["after_first_error"].tolist() == [False, False, False]
    assert right["final_strict"].tolist() == [True] * 3
    assert wrong["correct"].tolist() == [False, True, False]
    assert wrong["logical"].tolist() == [False, True, pd.NA]
    assert wrong["after_first_error"].tolist() == [False, True, True]
    assert wrong["final_flexible"].tolist() == [False] * 3
    assert bare["correct"].isna().tolist() == [True, False]
    assert bare["final_strict"].tolist() == [False, False]
    assert bare["final_flexible"].tolist() == [True, True]
    assert table[["value", "judge_correct", "judge_logical"]].isna().all(axis=None)


def test_tokens_are_those_of_the_trace(pool: Pool, tmp_path: Path) -> None:
    table, tokenizer = label(pool, tmp_path), load_tokenizer(pool.model)
    one = of_trace(table, 0)
    trace = next(trace for trace in read_traces(pool.traces) if trace.trace == one.loc[0, "trace"])
    begins = [trace.prompt_tokens, *trace.step_ends[:-1]]
    assert one["first_token"].tolist() == [trace.token_ids[begin] for begin in begins]
    assert one["next_first_token"].tolist() == [*one["first_token"].tolist()[1:], pd.NA]
    assert "".join(one["text"]) == WRITTEN[0]
    assert (one["tokens"] - one["length"]).tolist() == [0, 0, 1], "the end of the turn"
    assert one["length"].sum() == len(tokenizer(WRITTEN[0]).input_ids)


def test_the_manifest_counts_what_is_known(pool: Pool, tmp_path: Path) -> None:
    table = label(pool, tmp_path)
    manifest = read_manifest(tmp_path / "labels.json", "step_labels")
    assert manifest["steps"] == len(table)
    assert manifest["known"]["correct"] == table["correct"].notna().sum()
    assert manifest["known"]["next_first_token"] == table["next_first_token"].notna().sum()
    assert "value" not in manifest["known"]


VALUES = pa.schema([("trace", pa.string()), ("step", pa.int32()), ("value", pa.float64())])


def test_labels_of_users_and_tables_are_merged(pool: Pool, tmp_path: Path) -> None:
    plain = label(pool, tmp_path)
    given = tmp_path / "own.csv"
    own = [{"trace": f"{FIRST}/base/0", "step": 1, "mine": 3.5}, {"trace": "x/base/0", "step": 0, "mine": 1}]
    pd.DataFrame(own).to_csv(given, index=False)
    values = [{"trace": row.trace, "step": row.step, "value": None if row.step else 0.25} for row in plain.itertuples()]
    write_records(tmp_path / "values.parquet", values, VALUES)
    table = label(pool, tmp_path, Sources(UserLabels(given, run="shared", stage="base"), (tmp_path / "values.parquet",)))
    assert table["value"].isna().tolist() == [step > 0 for step in table["step"]]
    assert table["mine"].notna().sum() == 1
    assert of_trace(table, 0).loc[1, "mine"] == 3.5
    assert read_manifest(tmp_path / "labels.json", "step_labels")["user"]["unknown"] == 1


def test_tables_of_other_steps_are_refused(pool: Pool, tmp_path: Path) -> None:
    write_records(tmp_path / "values.parquet", [{"trace": "other", "step": 0, "value": 1.0}], VALUES)
    with pytest.raises(ConfigError, match="a row for every step of their traces"):
        label(pool, tmp_path, Sources(None, (tmp_path / "values.parquet",)))
    assert not (tmp_path / "labels.parquet").exists()


def test_bytes_are_the_same_every_time(pool: Pool, tmp_path: Path) -> None:
    label(pool, tmp_path / "a")
    label(pool, tmp_path / "b")
    assert (tmp_path / "a" / "labels.parquet").read_bytes() == (tmp_path / "b" / "labels.parquet").read_bytes()


def test_a_pool_without_steps_has_an_empty_table(pool: Pool, tmp_path: Path) -> None:
    table = label(without_steps(pool, tmp_path / "pool"), tmp_path)
    assert table.empty
    assert read_manifest(tmp_path / "labels.json", "step_labels")["steps"] == 0
