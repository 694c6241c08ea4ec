"""Sampled traces from a tiny real model: complete, reproducible, resumable to the byte, graded and counted."""

import json
from pathlib import Path

import pytest

from workflow.answers import grade
from workflow.config.prompts import PromptsConfig
from workflow.config.section import ConfigError
from workflow.formats.files import file_digest, write_json
from workflow.formats.manifest import read_manifest
from workflow.formats.problems import Problem, problem_id, write_problems
from workflow.formats.traces import Trace, read_traces
from workflow.language_model import load_tokenizer
from workflow.traces import solving
from workflow.traces.reference import fixed_text
from workflow.traces.replay import replayed_text
from workflow.traces.solving import SolvingSettings, sample_traces

PROMPTS = PromptsConfig(system="Answer with ####.")
SETTINGS = SolvingSettings(["test", "val"], 2, 1.0, 1.0, 6, 4, 0, "transformers", None)


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    """Six test, three val, four train problems and one for PPO, of two lengths."""
    counts = {"test": 6, "val": 3, "train": 4, "ppo": 1}
    places = [(split, rank) for split, count in counts.items() for rank in range(count)]
    table = []
    for number, (split, rank) in enumerate(places):
        question, answer = f"{number} + {'1 + ' * (rank % 2)}7 =", number + 7 + rank % 2
        solution = f"{question} {answer}\n#### {answer}"
        table.append(Problem(problem_id(question), question, str(answer), solution, split, rank, "", 1.0, f"g{number}"))
    write_problems(tmp_path / "problems.parquet", table)
    return tmp_path / "problems.parquet"


def sample(folder: Path, problems: Path, model: Path, key: str = "key", **changes) -> dict:
    return sample_traces(
        problems=problems, model=model, stage="base", traces=folder / "traces.parquet", manifest=folder / "manifest.json",
        settings=SETTINGS._replace(**changes), prompts=PROMPTS, device="cpu", dtype="float32", key=key,
    )  # fmt: skip


def texts(folder: Path) -> dict[str, list[int]]:
    return {trace.trace: trace.token_ids for trace in read_traces(folder / "traces.parquet")}


def test_every_problem_of_the_splits_is_solved_as_often_as_asked(tmp_path: Path, problems: Path, tiny_qwen2: Path) -> None:
    facts = sample(tmp_path / "a", problems, tiny_qwen2)
    traces = read_traces(tmp_path / "a" / "traces.parquet")
    assert [(trace.split, trace.rank, trace.sample) for trace in traces] == [
        (split, rank, number) for split, count in (("val", 3), ("test", 6)) for rank in range(count) for number in (0, 1)
    ]
    tokenizer = load_tokenizer(tiny_qwen2)
    for trace in traces:
        response = trace.token_ids[trace.prompt_tokens :]
        assert trace.origin == "base"
        assert 1 <= len(response) <= 6
        assert trace.finished == (response[-1] == tokenizer.eos_token_id)
        assert trace.response == tokenizer.decode(response, skip_special_tokens=True)
        assert trace[-4:] == grade(trace.response, trace.gold)
        assert all(logprob < 0 for logprob in trace.logprobs)
        question = tokenizer.decode(trace.token_ids[trace.question_start : trace.question_end])
        assert question.endswith("7 =")
        assert problem_id(question) == trace.problem
    assert facts["engine"] == "transformers"
    assert facts["prompt_format"] == "chat"
    assert not (tmp_path / "a" / ".partial").exists()


def test_the_manifest_counts_what_the_table_holds(tmp_path: Path, problems: Path, tiny_qwen2: Path) -> None:
    sample(tmp_path, problems, tiny_qwen2)
    traces = read_traces(tmp_path / "traces.parquet")
    manifest = read_manifest(tmp_path / "manifest.json", "traces")
    assert manifest["digest"] == file_digest(tmp_path / "traces.parquet")
    assert (manifest["traces"], manifest["problems"]) == (18, 9)
    assert manifest["finished"] == pytest.approx(sum(trace.finished for trace in traces) / 18)
    assert manifest["accuracy"]["flexible"] == pytest.approx(sum(trace.flexible for trace in traces) / 18)
    assert manifest["response_tokens"] == sum(len(trace.logprobs) for trace in traces)
    assert manifest["prompt_version"] == "1"
    assert manifest["sampling"] == {
        "temperature": 1.0, "top_p": 1.0, "max_new_tokens": 6, "seed": 0, "samples": 2, "limit": None
    }  # fmt: skip


def test_batches_change_no_token_and_seeds_do(tmp_path: Path, problems: Path, tiny_qwen2: Path) -> None:
    sample(tmp_path / "a", problems, tiny_qwen2)
    sample(tmp_path / "b", problems, tiny_qwen2, batch=7)
    sample(tmp_path / "c", problems, tiny_qwen2, seed=1)
    assert texts(tmp_path / "a") == texts(tmp_path / "b") != texts(tmp_path / "c")


def test_a_greedy_set_is_limited_to_the_first_problems(tmp_path: Path, problems: Path, tiny_qwen2: Path) -> None:
    greedy = {"splits": ["test"], "samples": 1, "temperature": 0.0, "limit": 4}
    sample(tmp_path / "a", problems, tiny_qwen2, **greedy)
    sample(tmp_path / "b", problems, tiny_qwen2, seed=5, **greedy)
    assert [trace.rank for trace in read_traces(tmp_path / "a" / "traces.parquet")] == [0, 1, 2, 3]
    assert texts(tmp_path / "a") == texts(tmp_path / "b")


def test_a_pool_holds_the_first_problems_of_each_split(tmp_path: Path, problems: Path, tiny_qwen2: Path) -> None:
    sample(tmp_path, problems, tiny_qwen2, splits=["val", "test"], samples=3, limit={"val": 1, "test": 2})
    found = [(trace.split, trace.rank, trace.sample) for trace in read_traces(tmp_path / "traces.parquet")]
    assert found == [(split, rank, number) for split, rank in (("val", 0), ("test", 0), ("test", 1)) for number in range(3)]


class Counting:
    """The real engine; it counts the prompts it is given and dies before the batch that exceeds `allowed`."""

    def __init__(self, engine, allowed: int) -> None:
        self.name, self._engine, self.allowed, self.prompts = engine.name, engine, allowed, 0

    def sample(self, prompts, streams, settings, progress=None):
        if self.prompts + len(prompts) > self.allowed:
            raise KeyboardInterrupt
        self.prompts += len(prompts)
        return self._engine.sample(prompts, streams, settings, progress)


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch):
    """Makes engines die after so many prompts; gives those that were built."""
    built: list[Counting] = []
    original = solving.build_engine

    def limit(allowed: int) -> list[Counting]:
        def build(*arguments):
            engine, facts = original(*arguments)
            built.append(Counting(engine, allowed))
            return built[-1], facts

        monkeypatch.setattr(solving, "build_engine", build)
        return built

    return limit


def test_a_killed_job_goes_on_with_its_finished_batches_to_the_same_bytes(
    tmp_path: Path, problems: Path, tiny_qwen2: Path, limited
) -> None:
    sample(tmp_path / "whole", problems, tiny_qwen2)
    limited(8)
    with pytest.raises(KeyboardInterrupt):
        sample(tmp_path / "killed", problems, tiny_qwen2)
    assert not (tmp_path / "killed" / "traces.parquet").exists()
    built = limited(10)
    sample(tmp_path / "killed", problems, tiny_qwen2)
    assert [engine.prompts for engine in built] == [8, 10]
    for name in ("traces.parquet", "manifest.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "killed" / ".partial").exists()


def test_batches_of_other_settings_or_of_another_engine_are_not_used(
    tmp_path: Path, problems: Path, tiny_qwen2: Path, limited, caplog: pytest.LogCaptureFixture
) -> None:
    limited(8)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            sample(tmp_path, problems, tiny_qwen2, key="one")
    assert len(list((tmp_path / ".partial" / "traces.parquet.one").glob("*.parquet"))) == 4
    built = limited(4)
    with pytest.raises(KeyboardInterrupt):
        sample(tmp_path, problems, tiny_qwen2, key="two")
    made_by = tmp_path / ".partial" / "traces.parquet.two" / "made_by.json"
    write_json(made_by, json.loads(made_by.read_text()) | {"dtype": "bfloat16"})
    limited(100)
    sample(tmp_path, problems, tiny_qwen2, key="two")
    assert [engine.prompts for engine in built] == [8, 8, 4, 18]
    assert "sampled in another way and are dropped" in caplog.text


def test_reference_solutions_become_the_fixed_text(tmp_path: Path, problems: Path, tiny_qwen2: Path, tiny_llama: Path) -> None:
    for folder, model in (("a", tiny_qwen2), ("b", tiny_llama)):  # both have the same tokenizer
        facts = fixed_text(
            problems=problems, model=model, traces=tmp_path / folder / "traces.parquet",
            manifest=tmp_path / folder / "manifest.json", prompts=PROMPTS,
        )  # fmt: skip
    traces = read_traces(tmp_path / "a" / "traces.parquet")
    tokenizer = load_tokenizer(tiny_qwen2)
    assert (tmp_path / "a" / "traces.parquet").read_bytes() == (tmp_path / "b" / "traces.parquet").read_bytes()
    assert [trace.split for trace in traces] == ["val"] * 3 + ["test"] * 6 + ["train"] * 4
    assert all(trace.strict and trace.flexible and trace.verl_strict and trace.finished for trace in traces)
    assert {(trace.origin, trace.sample, len(trace.step_ends), len(trace.logprobs)) for trace in traces} == {("reference", 0, 2, 0)}
    for trace in traces:
        first_step = tokenizer.decode(trace.token_ids[trace.prompt_tokens : trace.step_ends[0]])
        assert first_step.endswith(f"= {trace.gold}\n")
        assert trace.token_ids[-1] == tokenizer.eos_token_id
    manifest = read_manifest(tmp_path / "a" / "manifest.json", "traces")
    assert manifest["accuracy"]["strict"] == manifest["finished"] == 1.0
    assert facts == {"prompt_version": "1", "prompt_format": "chat"}


def test_problems_without_solution_have_no_fixed_text(tmp_path: Path, tiny_qwen2: Path) -> None:
    table = [Problem(problem_id(f"{n}?"), f"{n}?", "1", None if n else "1", "train", n, "", 1.0, f"g{n}") for n in range(3)]
    write_problems(tmp_path / "problems.parquet", table)
    with pytest.raises(ConfigError, match=r"2 of 3 have none, the first is p\w+: '1\?'. Set problems.solution"):
        fixed_text(
            problems=tmp_path / "problems.parquet", model=tiny_qwen2, traces=tmp_path / "traces.parquet",
            manifest=tmp_path / "manifest.json", prompts=PROMPTS,
        )  # fmt: skip
    assert not (tmp_path / "traces.parquet").exists()


def test_the_replayed_text_is_that_of_the_first_and_last_stage(tmp_path: Path, problems: Path, tiny_qwen2: Path) -> None:
    sample(tmp_path / "base", problems, tiny_qwen2)
    sample_traces(
        problems=problems, model=tiny_qwen2, stage="ppo_0002", traces=tmp_path / "ppo" / "traces.parquet",
        manifest=tmp_path / "ppo" / "manifest.json", settings=SETTINGS._replace(seed=1), prompts=PROMPTS, device="cpu",
        dtype="float32", key="key",
    )  # fmt: skip
    sources = [tmp_path / "base" / "traces.parquet", tmp_path / "ppo" / "traces.parquet"]
    replayed_text(sources=sources, traces=tmp_path / "traces.parquet", manifest=tmp_path / "manifest.json")
    replayed = read_traces(tmp_path / "traces.parquet")
    by_id: dict[str, Trace] = {trace.trace: trace for path in sources for trace in read_traces(path)}
    assert {trace.trace: trace for trace in replayed} == by_id
    assert [trace.origin for trace in replayed[:4]] == ["base", "base", "ppo_0002", "ppo_0002"]
    assert read_manifest(tmp_path / "manifest.json", "traces")["by_origin"] == {"base": 18, "ppo_0002": 18}
    replayed_text(sources=sources[:1] * 2, traces=tmp_path / "one.parquet", manifest=tmp_path / "one.json")
    assert read_traces(tmp_path / "one.parquet") == read_traces(sources[0])
