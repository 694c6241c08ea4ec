"""Steps tokenised once: found again, rebuilt when something changed, gone on with after a kill, and the same bytes either way."""

import json
import logging
import os
import tracemalloc
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from small_steps import IRREGULAR, save_tokenizer, write_lines

from workflow.config.section import ConfigError
from workflow.formats.files import file_digest
from workflow.formats.manifest import read_manifest
from workflow.formats.problems import problem_id
from workflow.formats.steps import StepStore
from workflow.ssae import step_cache as caching
from workflow.ssae.forms import StepRules
from workflow.ssae.step_cache import step_cache

RULES = StepRules(format="gsm8k_aug", on_bad_line="skip")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tokenizer(tmp_path_factory.mktemp("model"))


def solutions(count: int) -> list[Any]:
    """Lines of two steps; every tenth is bad."""
    return [
        "bad" if n % 10 == 9 else {"question": f"{n} + 1?", "answer": f"{n} + 1 =\n{n + 1}\n#### {n + 1}"} for n in range(count)
    ]


def test_the_manifest_counts_and_the_store_knows_where_steps_come_from(tmp_path: Path, model: Path) -> None:
    source = write_lines(tmp_path / "a.json", [*IRREGULAR["gsm8k_aug"], "[]", IRREGULAR["gsm8k_aug"][0]])
    facts = step_cache(source=source, tokenizer=model, rules=RULES, folder=tmp_path / "cache")
    assert facts["skipped"] == {"not_object": 1}
    assert (facts["solutions"], facts["problems"], facts["steps"], facts["blank_steps"]) == (8, 7, 16, 2)
    assert (facts["cut_contexts"], facts["cut_steps"], facts["longest_sequence"]) == (3, 1, 514)
    assert facts["rules"]["max_context_tokens"] == 256
    with StepStore(tmp_path / "cache/steps.h5") as store:
        assert store.column("solutions/line").tolist() == [1, 2, 3, 4, 5, 6, 7, 9]
        assert store.of_step("problem")[0] == store.of_step("problem")[-1] == problem_id("What is 1 + 2?").encode()
        assert store.column("steps/number")[store.solution == 2].tolist() == [0, 3, 4]
        assert set(store.column("solutions/strict").tolist()) == {-1}
        assert store.lengths().sum() == facts["sequence_tokens"]


def test_the_same_call_finds_its_files_and_another_makes_new_ones(
    tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, folder = write_lines(tmp_path / "a.json", solutions(20)), tmp_path / "cache"
    first = step_cache(source=source, tokenizer=model, rules=RULES, folder=folder)
    made = (folder / "steps.h5").stat().st_mtime_ns
    with caplog.at_level(logging.INFO):
        assert step_cache(source=source, tokenizer=model, rules=RULES, folder=folder) == first
    assert "already" in caplog.text
    assert (folder / "steps.h5").stat().st_mtime_ns == made
    shorter = StepRules(format="gsm8k_aug", on_bad_line="skip", max_context_tokens=3)
    assert step_cache(source=source, tokenizer=model, rules=shorter, folder=folder)["longest_sequence"] < first["longest_sequence"]
    (folder / "steps.h5").write_bytes(b"")
    assert step_cache(source=source, tokenizer=model, rules=RULES, folder=folder) == first
    write_lines(source, solutions(21))
    assert step_cache(source=source, tokenizer=model, rules=RULES, folder=folder)["solutions"] == 19
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "steps.h5"]


def test_a_killed_call_goes_on_and_ends_with_the_same_bytes(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_lines(tmp_path / "a.json", solutions(60))
    whole = step_cache(source=source, tokenizer=model, rules=RULES, folder=tmp_path / "whole")
    monkeypatch.setattr(caching, "PIECE_TOKENS", 200)
    kept, kept_pieces = caching.keep, []

    def keep_until_killed(held: Any, path: Path) -> None:
        if len(kept_pieces) == 2:
            path.write_bytes(b"half")
            raise KeyboardInterrupt
        kept_pieces.append(len(held))
        kept(held, path)

    monkeypatch.setattr(caching, "keep", keep_until_killed)
    with pytest.raises(KeyboardInterrupt):
        step_cache(source=source, tokenizer=model, rules=RULES, folder=tmp_path / "killed")
    encoded: list[int] = []

    def keep_and_count(held: Any, path: Path) -> None:
        encoded.extend(one.line for one in held)
        kept(held, path)

    monkeypatch.setattr(caching, "keep", keep_and_count)
    assert step_cache(source=source, tokenizer=model, rules=RULES, folder=tmp_path / "killed") == whole
    assert len(encoded) + sum(kept_pieces) == whole["solutions"]
    assert whole["skipped"] == {"not_json": 6}
    assert file_digest(tmp_path / "killed/steps.h5") == file_digest(tmp_path / "whole/steps.h5") == whole["digest"]
    assert not (tmp_path / "killed/.partial").exists()


def test_pieces_of_other_code_are_not_gone_on_with(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_lines(tmp_path / "a.json", solutions(20))
    monkeypatch.setattr(caching, "write_steps", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    for key in ("old", "new"):
        with pytest.raises(KeyboardInterrupt):
            step_cache(source=source, tokenizer=model, rules=RULES, folder=tmp_path / "cache", key=key)
        assert len(list((tmp_path / "cache/.partial").iterdir())) == 1


def test_a_source_without_steps_is_refused(tmp_path: Path, model: Path) -> None:
    source = write_lines(tmp_path / "a.json", ["bad", "[]"])
    with pytest.raises(ConfigError, match="must hold a step or more; it holds none, 2 lines were left out"):
        step_cache(source=source, tokenizer=model, rules=RULES, folder=tmp_path / "cache")
    with pytest.raises(ConfigError, match=r"there is none at .*absent"):
        step_cache(source=tmp_path / "absent", tokenizer=model, rules=RULES, folder=tmp_path / "cache")


def test_a_damaged_file_is_told(tmp_path: Path, model: Path) -> None:
    step_cache(source=write_lines(tmp_path / "a.json", solutions(5)), tokenizer=model, rules=RULES, folder=tmp_path)
    whole = (tmp_path / "steps.h5").read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"x" * 2000):
        (tmp_path / "steps.h5").write_bytes(content)
        with pytest.raises(ConfigError, match=r"must be a whole steps.h5 of version 2.*Delete it and run again"):
            StepStore(tmp_path / "steps.h5")


def test_files_of_an_older_version_are_told_and_made_anew(tmp_path: Path, model: Path) -> None:
    source = write_lines(tmp_path / "a.json", solutions(5))
    facts = step_cache(source=source, tokenizer=model, rules=RULES, folder=tmp_path)
    with h5py.File(tmp_path / "steps.h5", "a") as file:
        file.attrs["version"] = 1
    older = facts | {"layout": 1, "digest": file_digest(tmp_path / "steps.h5")}
    (tmp_path / "manifest.json").write_text(json.dumps(older))
    with pytest.raises(ConfigError, match=r"of version 2, .*; version 1, missing nothing. Delete it and run again"):
        StepStore(tmp_path / "steps.h5")
    assert step_cache(source=source, tokenizer=model, rules=RULES, folder=tmp_path) == facts


def test_tokens_stay_on_the_disk(tmp_path: Path, model: Path) -> None:
    rows = [{"question": f"{n} " + "1 2 3 4 " * 60, "answer": "5 6 " * 120} for n in range(1500)]
    source = write_lines(tmp_path / "a.json", rows)
    step_cache(source=source, tokenizer=model, rules=RULES, folder=tmp_path)
    assert (tmp_path / "steps.h5").stat().st_size > 2_500_000
    tracemalloc.start()
    with StepStore(tmp_path / "steps.h5") as store:
        for begin in range(0, len(store), 50):
            store.batch(np.arange(begin, begin + 50) % len(store))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 900_000


def test_legacy_flags_are_recorded(tmp_path: Path, model: Path) -> None:
    source = write_lines(tmp_path / "a.json", IRREGULAR["gsm8k_aug"])
    rules = StepRules(format="gsm8k_aug", double_bos=True)
    step_cache(source=source, tokenizer=model, rules=rules, folder=tmp_path)
    assert read_manifest(tmp_path / "manifest.json", "steps")["rules"]["double_bos"] is True
    assert json.loads((tmp_path / "manifest.json").read_text())["artefact"] == "steps"


def test_real_gsm8k(tmp_path: Path, model: Path) -> None:
    folder = os.environ.get("SAEDRIFT_GSM8K")
    if not folder:
        pytest.skip("SAEDRIFT_GSM8K does not name a folder holding test.jsonl of openai/grade-school-math")
    facts = step_cache(source=Path(folder) / "test.jsonl", tokenizer=model, rules=StepRules(format="gsm8k"), folder=tmp_path)
    lines = [json.loads(line) for line in (Path(folder) / "test.jsonl").read_text().splitlines()]
    # a line that is not blank per step, but for the last two; no answer of GSM8K is a single line
    assert facts["steps"] == sum(len(line["answer"].replace("\n\n", "\n").split("\n")) - 1 for line in lines)
    assert (facts["solutions"], facts["problems"], facts["skipped"], facts["blank_steps"]) == (1319, 1319, {}, 0)
    with StepStore(tmp_path / "steps.h5") as store:
        tokenizer = caching.step_tokenizer(model).tokenizer
        last = len(store) - 1
        assert tokenizer.decode(store.step_ids(last)) == "\n".join(lines[-1]["answer"].split("\n")[-2:])
