"""Verdicts of a judge, a real server on this machine: read strictly, kept through a kill, missing where nothing can be read."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from chat_server import Answer, Asked, chat_server, completion
from small_pool import Pool, without_steps, write_pool

from workflow.config.probes import JudgeConfig
from workflow.config.section import ConfigError
from workflow.endpoint import Reply
from workflow.formats.manifest import read_manifest
from workflow.probes import judging
from workflow.probes.judging import judge_steps, verdict_of


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory, tiny_qwen2: Path) -> Pool:
    return write_pool(tmp_path_factory.mktemp("pool"), tiny_qwen2)


def judged(pool: Pool, out: Path, url: str, **changes: Any) -> pd.DataFrame:
    settings = JudgeConfig(**({"url": url, "model": "m", "backoff_s": 0.01, "retries": 2, "timeout_s": 5.0} | changes))
    judge_steps(
        traces=pool.traces, traces_manifest=pool.manifest, problems=pool.problems, model=pool.model,
        verdicts=out / "labels.parquet", manifest=out / "manifest.json", settings=settings, key="k",
    )  # fmt: skip
    return pd.read_parquet(out / "labels.parquet")


def by_text(request: Asked, before: int) -> Answer:
    """A judge who finds every equation correct and every step but those with `so` logical."""
    step = request.question.rpartition("Step to grade:\n")[2]
    return completion(json.dumps({"correct": "=" in step, "logical": "so" not in step}))


def test_every_step_gets_its_own_verdict(pool: Pool, tmp_path: Path) -> None:
    with chat_server(by_text) as server:
        table = judged(pool, tmp_path, server.url)
    first = table[table["trace"] == table.loc[0, "trace"].rpartition("/")[0] + "/1"]
    assert first["judge_correct"].tolist() == [True, True, False]
    assert first["judge_logical"].tolist() == [True, False, True]
    assert len(server.asked) == len(table)
    third = next(one for one in server.asked if one.question.endswith("Step to grade:\n#### 28"))
    assert "Earlier steps:\n3 * 5 = 16\nso 16 + 12 = 28\n" in third.question
    assert "#### 28" not in third.question.rpartition("Step to grade:")[0], "nothing behind the step is shown"


def test_a_busy_server_is_asked_again_and_garbage_is_missing(pool: Pool, tmp_path: Path) -> None:
    def answer(request: Asked, before: int) -> Answer:
        step = request.question.rpartition("Step to grade:\n")[2]
        if before == 0 and "12" in step:
            return Answer(429 if "=" in step else 503, {"error": "busy"})
        if "think" in step:
            return completion("It is correct, I believe.")
        if "it is" in step:
            return Answer(500, "broken")
        return by_text(request, before)

    with chat_server(answer) as server:
        table = judged(pool, tmp_path, server.url)
    manifest = read_manifest(tmp_path / "manifest.json", "step_verdicts")
    garbage, broken = table["answer"].eq("It is correct, I believe."), table["answer"].isna()
    assert garbage.sum() == broken.sum() == 6
    assert table.loc[garbage | broken, ["judge_correct", "judge_logical"]].isna().all(axis=None)
    assert table.loc[~(garbage | broken), ["judge_correct", "judge_logical"]].notna().all(axis=None)
    assert (manifest["steps"], manifest["unanswered"], manifest["unreadable"]) == (len(table), 6, 6)


def test_a_killed_job_asks_nothing_twice(pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with chat_server(by_text) as server:
        whole = judged(pool, tmp_path / "a", server.url)
        asked, keep, left = len(server.asked), judging.KeptAnswers.add, [7]

        def dying(self: Any, verdict: Any) -> None:
            left[0] -= 1
            if not left[0]:
                with self._path.open("ab") as stream:
                    stream.write(b'{"answer": "cut sho')
                raise KeyboardInterrupt
            keep(self, verdict)

        monkeypatch.setattr(judging.KeptAnswers, "add", dying)
        with pytest.raises(KeyboardInterrupt):
            judged(pool, tmp_path / "b", server.url, concurrency=1)
        before = len(server.asked)
        assert judged(pool, tmp_path / "b", server.url, concurrency=1).equals(whole)
    assert len(server.asked) - before == asked - 6
    for name in ("labels.parquet", "manifest.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_judge_who_never_answers_in_form_is_refused(pool: Pool, tmp_path: Path) -> None:
    with chat_server(lambda *_: completion("Correct!")) as server, pytest.raises(ConfigError, match="none of 48 answers"):
        judged(pool, tmp_path, server.url)
    assert not (tmp_path / "labels.parquet").exists()


@pytest.mark.parametrize(
    ("data", "correct", "logical"),
    [
        ({"correct": True, "logical": False}, True, False),
        ({"correct": True, "logical": False, "why": "x"}, True, False),
        ({"correct": True}, None, None),
        ({"correct": "true", "logical": "true"}, None, None),
        ({"correct": 1, "logical": 0}, None, None),
        ({"correct": None, "logical": True}, None, None),
        ([True, False], None, None),
        ("Correct", None, None),
    ],
)
def test_json_answers_are_read_strictly(data: Any, correct: bool | None, logical: bool | None) -> None:
    verdict = verdict_of(Reply(json.dumps(data), data, None, 0, 0), "json")
    assert (verdict.get("judge_correct"), verdict.get("judge_logical")) == (correct, logical)
    assert (verdict["fault"] is None) == (correct is not None)


@pytest.mark.parametrize(
    ("text", "correct", "logical"),
    [
        ("Conclusion: Correct\nLogicality: Illogical\nAnalysis: fine", True, False),
        ("**Conclusion:** Incorrect\n**Logicality:** Logical", False, True),
        ("Conclusion: Correct", None, None),
        ("Conclusion: Correct or Incorrect\nLogicality: Logical", None, None),
        ("Conclusion: Correct\nConclusion: Incorrect\nLogicality: Logical", None, None),
        ("Conclusion: Not Correct\nLogicality: Logical", None, None),
        ("incorrect", None, None),
    ],
)
def test_lines_are_read_strictly(text: str, correct: bool | None, logical: bool | None) -> None:
    verdict = verdict_of(Reply(text, None, None, 0, 0), "lines")
    assert (verdict.get("judge_correct"), verdict.get("judge_logical")) == (correct, logical)


def test_a_pool_without_steps_asks_nobody(pool: Pool, tmp_path: Path) -> None:
    with chat_server(by_text) as server:
        assert judged(without_steps(pool, tmp_path / "pool"), tmp_path, server.url).empty
    assert server.asked == []
