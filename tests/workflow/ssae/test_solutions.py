"""Lines of step data: read in the fields of each format, refused or counted where they are bad, never all in memory."""

import json
import logging
import tracemalloc
from pathlib import Path

import pytest
from small_steps import write_lines

from workflow.config.section import ConfigError
from workflow.config.ssae_data import SsaeData
from workflow.config.ssae_training import SsaeLegacy
from workflow.formats.problems import problem_id
from workflow.ssae.forms import Limits, StepRules
from workflow.ssae.solutions import Solution, TextSource

GOOD = {"question": "1 + 1?", "answer": "1 + 1 = 2\n#### 2"}
BAD = [
    ("{", "not_json", "is no JSON: .* at column 2"),
    ('{"question": "a", "answer": "b"} x', "not_json", "is no JSON: Extra data"),
    ("[" * 100_000, "not_json", "is no JSON"),
    ("[1, 2]", "not_object", "is a list with other things than texts"),
    ("3", "not_object", "is a number"),
    ('{"question": "a", "anser": "b"}', "field_missing", "lacks `answer` among question, anser"),
    ("{}", "field_missing", "lacks `question` among no fields"),
    ('{"question": 3, "answer": "b"}', "wrong_type", "has a number as `question`"),
    ('{"question": "a", "answer": ["b"]}', "wrong_type", "has a list as `answer`"),
    ('{"question": "a", "answer": null}', "wrong_type", "has null, true or false as `answer`"),
    ('{"question": " ", "answer": "b"}', "empty_question", "has an empty `question`"),
    ('{"question": "a", "answer": " \\n"}', "no_step", "has no step in `answer`"),
    ('{"question": "a", "answer": ""}', "no_step", "has no step in `answer`"),
    ('{"question": "a", "answer": "\\ud800"}', "not_unicode", "has an escape that is half a character"),
]


def source(path: Path, form: str = "gsm8k_aug", **rules: str) -> TextSource:
    return TextSource(path, StepRules(format=form, **rules))


def test_every_format_is_read_from_its_fields(tmp_path: Path) -> None:
    rows = {
        "gsm8k": {"question": "Q", "answer": "48/2 = <<48/2=24>>24\n48+24 = <<48+24=72>>72\n#### 72"},
        "gsm8k_aug": {"question": "Q", "answer": "a\nb", "extra": 1},
        "numina": {"question": "Q", "answer": ["One. Two", "Three"]},
        "opencodeinstruct": {"input": "Q", "output": "x\n y"},
    }
    parts = {
        "gsm8k": [["48/2 = <<48/2=24>>24", "48+24 = <<48+24=72>>72\n#### 72"]],
        "gsm8k_aug": [["a\nb"]],
        "numina": [["One.", "Two"], ["Three"]],
        "opencodeinstruct": [["x", " y"]],
    }
    for form, row in rows.items():
        path = write_lines(tmp_path / f"{form}.json", ["", row])
        assert list(source(path, form).solutions()) == [Solution(problem_id("Q"), 2, "Q", parts[form])]


@pytest.mark.parametrize(("line", "reason", "words"), BAD, ids=range(len(BAD)))
def test_a_bad_line_is_told_with_its_place_and_what_to_do(tmp_path: Path, line: str, reason: str, words: str) -> None:
    path = write_lines(tmp_path / "a.json", [GOOD, "", line])
    with pytest.raises(ConfigError, match=rf"must be a JSON object .* line 3 of .*a.json {words}.*on_bad_line: skip"):
        list(source(path).solutions())


def test_bad_lines_are_counted_by_reason_and_the_first_are_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_lines(tmp_path / "a.json", [GOOD, *(line for line, _, _ in BAD), GOOD])
    reader = source(path, on_bad_line="skip")
    with caplog.at_level(logging.WARNING):
        found = list(reader.solutions())
    assert [solution.line for solution in found] == [1, len(BAD) + 2]
    assert reader.skipped == {reason: [one for _, one, _ in BAD].count(reason) for _, reason, _ in BAD}
    assert len(caplog.records) == 3
    list(reader.solutions())
    assert reader.skipped.total() == len(BAD)


def test_a_list_of_texts_must_be_one(tmp_path: Path) -> None:
    for answer in ("text", ["text", 3]):
        path = write_lines(tmp_path / "a.json", [{"question": "Q", "answer": answer}])
        with pytest.raises(
            ConfigError, match=r"its solution, a list of texts, in `answer`; line 1 .* has a (text|list with other things)"
        ):
            list(source(path, "numina").solutions())


def test_bytes_that_are_no_text_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"question": "\xff"}\n')
    with pytest.raises(ConfigError, match=r"line 2 of .* is no UTF-8 at byte 15"):
        list(source(path).solutions())


def test_a_missing_file_and_an_unknown_format_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is none at .*absent.json"):
        next(source(tmp_path / "absent.json").solutions())
    with pytest.raises(ConfigError, match=r"must be one of .*; got 'gsm8k_agu'. Did you mean gsm8k_aug?"):
        StepRules(format="gsm8k_agu")


def test_lines_are_not_held_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with path.open("w") as lines:
        for number in range(20_000):
            lines.write(json.dumps({"question": f"{number}" * 20, "answer": "one\ntwo\nthree " + "x" * 300}) + "\n")
    tracemalloc.start()
    assert sum(len(solution.parts[0]) for solution in source(path).solutions()) == 40_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20 < path.stat().st_size


def test_limits_are_those_of_the_published_data_unless_set() -> None:
    limits = {name: StepRules(format=name).limits for name in ("gsm8k", "gsm8k_aug", "numina", "opencodeinstruct")}
    assert {name: (of.context, of.keep, of.step, of.total) for name, of in limits.items()} == {
        "gsm8k": (256, "first", 256, 514),
        "gsm8k_aug": (256, "first", 256, 514),
        "numina": (256, "last", 128, 386),
        "opencodeinstruct": (256, "last", 256, 514),
    }
    rules = StepRules.of(SsaeData(format="numina", on_bad_line="skip", max_step_tokens=7), SsaeLegacy(numina_join=True))
    assert rules.limits == Limits(256, "last", 7)
    assert (rules.on_bad_line, rules.numina_join, rules.double_bos) == ("skip", True, False)
    assert StepRules(format="numina", max_context_tokens=9, keep_context="first").limits == Limits(9, "first", 128)
    with pytest.raises(ConfigError, match=r"must be 2 or more and max_step_tokens 1 or more; got 1 and 128"):
        StepRules(format="numina", max_context_tokens=1)
