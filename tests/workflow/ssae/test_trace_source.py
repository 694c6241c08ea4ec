"""Steps of traces.parquet: ids as they were written, grades and splits kept, nothing of the template before the question."""

import random
from functools import partial
from pathlib import Path

import pytest
from small_steps import save_tokenizer
from small_traces import random_trace

from workflow.config.section import ConfigError
from workflow.formats.manifest import write_manifest
from workflow.formats.steps import StepStore
from workflow.formats.traces import SPLIT_ORDER, Trace, read_traces, stream_traces, write_traces
from workflow.language_model import tokenizer_digest
from workflow.ssae.forms import StepRules
from workflow.ssae.step_cache import step_cache
from workflow.step_tokens import step_tokenizer

LETTERS = range(40, 90)
"""Ids of printable single characters of the tiny tokenizer."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tokenizer(tmp_path_factory.mktemp("model"), bos=True)


def written(path: Path, count: int = 9) -> list[Trace]:
    """Traces of letters in two steps over all splits, some right, finished with the end token or cut off."""
    draw = random.Random(0)
    end = 2
    traces = []
    for number in range(count):
        trace = random_trace(SPLIT_ORDER[number % 3], number // 3, 0, draw)
        ids = [draw.choice(LETTERS) for _ in (*trace.token_ids, "one more")]
        if number % 2:
            ids[-1] = end
        traces.append(
            trace._replace(
                token_ids=ids,
                step_ends=[trace.step_ends[0], len(ids)],
                logprobs=[-1.0] * (len(ids) - trace.prompt_tokens),
                strict=number % 4 == 1,
                flexible=number % 4 != 2,
            )
        )
    write_traces(path, traces)
    return read_traces(path)


def test_ids_are_taken_as_they_stand(tmp_path: Path, model: Path) -> None:
    traces = written(tmp_path / "traces.parquet")
    loaded = step_tokenizer(model)
    assert loaded.end == 2
    facts = step_cache(source=tmp_path / "traces.parquet", tokenizer=model, rules=StepRules(format="traces"), folder=tmp_path)
    assert facts["steps"] == 2 * len(traces)
    with StepStore(tmp_path / "steps.h5") as store:
        batch = store.batch(range(len(store)))
        for row in range(len(store)):
            trace, step = traces[store.solution[row]], row % 2
            begin, end = [trace.prompt_tokens, *trace.step_ends][step : step + 2]
            inside = [token for token in trace.token_ids[begin:end] if token != 2]
            expected = [loaded.prefix[0], *trace.token_ids[trace.question_start : begin], loaded.separator, *inside, 2]
            assert batch.ids[row, : batch.length[row]].tolist() == expected
        assert store.of_step("problem").tolist() == [trace.problem.encode() for trace in traces for _ in range(2)]
        assert store.column("solutions/split").tolist() == [trace.split.encode() for trace in traces]
        assert store.column("solutions/line").tolist() == list(range(len(traces)))
        assert store.column("solutions/trace").tolist() == [trace.trace.encode() for trace in traces]
        for rule in ("strict", "flexible"):
            assert store.column(f"solutions/{rule}").tolist() == [int(getattr(trace, rule)) for trace in traces]


@pytest.mark.parametrize("keep", ["first", "last"])
def test_long_contexts_and_steps_are_cut_and_counted(tmp_path: Path, model: Path, keep: str) -> None:
    traces = written(tmp_path / "traces.parquet")
    rules = StepRules(format="traces", max_context_tokens=6, keep_context=keep, max_step_tokens=3)
    facts = step_cache(source=tmp_path / "traces.parquet", tokenizer=model, rules=rules, folder=tmp_path)
    with StepStore(tmp_path / "steps.h5") as store:
        lost = 0
        for row in range(len(store)):
            trace, step = traces[store.solution[row]], row % 2
            begin = [trace.prompt_tokens, *trace.step_ends][step]
            whole = trace.token_ids[trace.question_start : begin]
            lost += len(whole) > 5
            assert store.context_ids(row).tolist() == (whole[:5] if keep == "first" else whole[-5:])
            assert store.step_ids(row).tolist() == trace.token_ids[begin : begin + 3][: store.step_length[row]]
        assert facts["cut_contexts"] == lost > 0 < facts["cut_steps"]
        assert facts["longest_sequence"] == 6 + 1 + 3 + 1


def test_steps_without_text_are_left_out(tmp_path: Path, model: Path) -> None:
    trace = written(tmp_path / "traces.parquet")[0]
    blank = step_tokenizer(model).encode([" "])[0].tolist()
    ids = [*trace.token_ids[: trace.prompt_tokens], *blank, 50, 51, 2]
    ends = [trace.prompt_tokens + n for n in (1, 3, 4)]
    write_traces(tmp_path / "traces.parquet", [trace._replace(token_ids=ids, step_ends=ends, logprobs=[-1.0] * 4)])
    facts = step_cache(source=tmp_path / "traces.parquet", tokenizer=model, rules=StepRules(format="traces"), folder=tmp_path)
    assert (facts["steps"], facts["blank_steps"]) == (1, 2)
    with StepStore(tmp_path / "steps.h5") as store:
        assert store.column("steps/number").tolist() == [1]
        assert store.context_ids(0).tolist()[-1:] == blank
        assert store.step_ids(0).tolist() == [50, 51]


def without_steps(trace: Trace) -> Trace:
    return trace._replace(token_ids=trace.token_ids[: trace.prompt_tokens], step_ends=[], logprobs=[])


def test_traces_without_steps_are_left_out_and_counted(tmp_path: Path, model: Path) -> None:
    traces = written(tmp_path / "traces.parquet")
    write_traces(tmp_path / "traces.parquet", [without_steps(traces[0]), *traces[1:4], without_steps(traces[4])])
    facts = step_cache(source=tmp_path / "traces.parquet", tokenizer=model, rules=StepRules(format="traces"), folder=tmp_path)
    assert (facts["skipped"], facts["solutions"], facts["steps"]) == ({"no_step": 2}, 3, 6)
    with StepStore(tmp_path / "steps.h5") as store:
        assert store.column("solutions/trace").tolist() == [trace.trace.encode() for trace in traces[1:4]]
    write_traces(tmp_path / "traces.parquet", [without_steps(trace) for trace in traces])
    with pytest.raises(ConfigError, match="must hold a step or more; it holds none, 9 lines were left out"):
        step_cache(source=tmp_path / "traces.parquet", tokenizer=model, rules=StepRules(format="traces"), folder=tmp_path / "none")


def test_traces_of_another_tokenizer_are_refused_or_counted(tmp_path: Path, model: Path) -> None:
    traces = written(tmp_path / "traces.parquet")
    foreign = traces[1]._replace(token_ids=[*traces[1].token_ids[:-1], 312])
    write_traces(tmp_path / "traces.parquet", [traces[0], foreign, without_steps(traces[2])])
    with pytest.raises(ConfigError, match=f"trace {foreign.trace} of .* has token 312, of a tokenizer with 312 entries. Choose"):
        step_cache(source=tmp_path / "traces.parquet", tokenizer=model, rules=StepRules(format="traces"), folder=tmp_path)
    rules = StepRules(format="traces", on_bad_line="skip")
    facts = step_cache(source=tmp_path / "traces.parquet", tokenizer=model, rules=rules, folder=tmp_path)
    assert (facts["skipped"], facts["solutions"]) == ({"foreign_token": 1, "no_step": 1}, 1)


def test_another_tokenizer_than_that_of_the_policy_is_refused(tmp_path: Path, model: Path) -> None:
    written(tmp_path / "traces.parquet")
    call = partial(
        step_cache, source=tmp_path / "traces.parquet", rules=StepRules(format="traces"), policy=tmp_path / "policy.json"
    )
    write_manifest(tmp_path / "policy.json", "policy", tokenizer=tokenizer_digest(model))
    assert call(tokenizer=model, folder=tmp_path / "one")["solutions"] == 9
    with pytest.raises(ConfigError, match=r"must have its tokenizer, of the digest .*Choose an ssae.base_model with"):
        call(tokenizer=save_tokenizer(tmp_path / "other"), folder=tmp_path / "two")


def test_ids_as_they_stand_have_no_second_bos() -> None:
    with pytest.raises(ConfigError, match="must be one of texts; got traces, whose ids stand"):
        StepRules(format="traces", double_bos=True)


def test_streamed_traces_are_the_traces(tmp_path: Path) -> None:
    written(tmp_path / "traces.parquet", 600)
    assert list(stream_traces(tmp_path / "traces.parquet")) == read_traces(tmp_path / "traces.parquet")
