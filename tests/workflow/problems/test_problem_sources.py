"""Where problems come from: generators, files, the hub's cache; and what is said when they do not come."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants

from workflow.config.problems import ProblemsConfig
from workflow.config.section import ConfigError
from workflow.problems.sources import read_source

ROWS = [{"question": f"{n} + 1 =", "answer": f"{n} + 1 = {n + 1}\n#### {n + 1}"} for n in range(6)]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def write_lines(path: Path, rows: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return path


def write_parquet(path: Path, rows: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_a_generator_gives_the_same_rows_for_the_same_seed() -> None:
    settings = ProblemsConfig(source="reasoning_gym:chain_sum", size=20, seed=3, options={"max_terms": 2})
    first, again = read_source(settings), read_source(settings)
    assert first == again
    assert len(first.rows) == 20
    assert first.rows[0]["metadata"]["expression"] in first.rows[0]["question"]
    assert read_source(settings.model_copy(update={"seed": 1000})).rows != first.rows


@pytest.mark.parametrize("size", [None, 4])
def test_files_of_every_kind_give_the_same_rows(tmp_path: Path, size: int | None) -> None:
    (tmp_path / "rows.json").write_text(json.dumps(ROWS))
    paths = [write_lines(tmp_path / "rows.jsonl", ROWS), write_parquet(tmp_path / "rows.parquet", ROWS), tmp_path / "rows.json"]
    for path in paths:
        assert read_source(ProblemsConfig(source=str(path), size=size)).rows == ROWS[:size]
        assert read_source(ProblemsConfig(source="elsewhere.jsonl", size=size), local=path).rows == ROWS[:size]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.jsonl", '{"question": "1"}\n\n{"question": 2,\n', "line 3 of .*a.jsonl is not: .* at column"),
        ("a.jsonl", '{"question": "1"}\n[1, 2]\n', "line 2 of .* is a list with other things"),
        ("a.json", '{"question": "1"}', "must hold a list of objects; got one object"),
        ("a.json", "[1, 2", "must be JSON; it is not at line 1"),
        ("a.jsonl", "\n", "must hold problems; .* is empty"),
        ("a.json", "[]", "must hold problems; .* is empty"),
        ("a.parquet", "PAR", "must be a parquet file; it cannot be read"),
        ("a.csv", "a,b", "must be a file of the kind .parquet, .jsonl, .json"),
    ],
)
def test_a_bad_file_is_told_with_the_place(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_source(ProblemsConfig(source=str(tmp_path / name)))


def test_a_missing_file_is_told_where_to_put_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"there is none at {tmp_path}/data/mine.jsonl. Put it there"):
        read_source(ProblemsConfig(source="data/mine.jsonl"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"source": "reasoning_gym:chain_sums"}, "no 'chain_sums' among its .* Did you mean reasoning_gym:chain_sum?"),
        ({"options": {"min_term": 2}}, "options of reasoning-gym's chain_sum; got .*min_term"),
        ({"options": {"min_terms": 5, "max_terms": 2}}, "max_terms must be >= min_terms"),
        ({"source": "gsm8k", "options": {"name": "main"}}, "may hold config and split; got name"),
    ],
)
def test_what_a_generator_or_the_hub_does_not_know_is_refused(settings: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_source(ProblemsConfig(**settings))


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """The snapshot folder of a data set in an empty hub cache, laid out as huggingface_hub does."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def snapshot(dataset: str) -> Path:
        folder = tmp_path / f"datasets--{dataset.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text(COMMIT)
        (folder / "snapshots" / COMMIT).mkdir(parents=True)
        return folder / "snapshots" / COMMIT

    return snapshot


def test_gsm8k_is_all_of_its_main_config(cached: Callable[[str], Path]) -> None:
    folder = cached("openai/gsm8k")
    for config in ("main", "socratic"):
        write_parquet(folder / config / "train-00000-of-00001.parquet", ROWS[:4] if config == "main" else ROWS[5:])
        write_parquet(folder / config / "test-00000-of-00001.parquet", ROWS[4:])
    source = read_source(ProblemsConfig(source="gsm8k", size=None))
    assert source.rows == ROWS
    assert source.facts["revision"] == COMMIT
    assert source.facts["files"] == ["train-00000-of-00001.parquet", "test-00000-of-00001.parquet"]
    assert read_source(ProblemsConfig(source="gsm8k", size=5)).rows == ROWS[:5]
    assert read_source(ProblemsConfig(source="gsm8k", options={"split": "test"})).rows == ROWS[4:]


def test_shards_of_a_hub_data_set_are_read_in_order_and_one_format_once(cached: Callable[[str], Path]) -> None:
    folder = cached("someone/sums")
    for shard in (1, 0):
        write_parquet(folder / "data" / f"train-{shard:05d}-of-00002.parquet", ROWS[3 * shard : 3 * shard + 3])
    write_lines(folder / "raw" / "train.jsonl", ROWS)
    write_lines(folder / "raw" / "trainer_state.json", [])
    assert read_source(ProblemsConfig(source="hub:someone/sums", revision=COMMIT)).rows == ROWS


def test_a_choice_between_configs_is_left_to_the_user(cached: Callable[[str], Path]) -> None:
    folder = cached("someone/sums")
    for config in ("easy", "hard"):
        write_lines(folder / config / "train.jsonl", ROWS)
    with pytest.raises(ConfigError, match=r"2 files in 2 folders, of easy/train.jsonl, hard/train.jsonl"):
        read_source(ProblemsConfig(source="hub:someone/sums"))
    assert read_source(ProblemsConfig(source="hub:someone/sums", options={"config": "hard"})).rows == ROWS
    with pytest.raises(ConfigError, match="split 'dev' there are 0 files"):
        read_source(ProblemsConfig(source="hub:someone/sums", options={"config": "hard", "split": "dev"}))


@pytest.mark.parametrize("source", ["gsm8k", "hub:someone/sums"])
def test_a_hub_out_of_reach_is_told_with_what_to_do(cached: Callable[[str], Path], source: str) -> None:
    with pytest.raises(
        ConfigError, match=r"in reach on the hub or in its cache; neither is so: .*`hf download --repo-type dataset"
    ):
        read_source(ProblemsConfig(source=source))


def test_a_hub_that_cannot_be_connected_to_is_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(ConfigError, match="neither is so"):
        read_source(ProblemsConfig(source="gsm8k"))


def test_an_ill_formed_id_is_refused(cached: Callable[[str], Path]) -> None:
    with pytest.raises(ConfigError, match="must name a data set of the hub that you may read"):
        read_source(ProblemsConfig(source="hub:a/b/c"))
