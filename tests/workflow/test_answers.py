"""The answer rules: every known edge case, strict within flexible, and agreement with published verdicts."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflow.answers import Grades, flexible, gold_answer, grade, judge, strict, verl_flexible

# text, gold, then 1 = right under: verl_strict, verl_flexible, strict, flexible
EDGE_CASES = [
    ("#### 18", "18", 1, 1, 1, 1),
    ("#### 1,000", "1000", 1, 0, 1, 1),
    ("#### 1,000", "1,000", 1, 0, 1, 1),
    ("#### $18", "18", 0, 1, 1, 1),
    ("####18", "18", 0, 1, 1, 1),
    ("#### 18.", "18", 0, 0, 1, 1),
    ("#### 18.00", "18", 0, 0, 1, 1),
    ("#### 18 for 3 days", "18", 1, 0, 1, 1),
    ("#### 18\nSo 3 days", "18", 1, 0, 1, 1),
    ("#### 3\n#### 18", "18", 1, 1, 1, 1),
    ("#### 18" + " and so on, words without end" * 14, "18", 0, 0, 1, 1),
    ("#### **18**", "18", 0, 1, 1, 1),
    ("#### −5", "-5", 0, 0, 1, 1),
    ("#### -$5", "-5", 0, 0, 1, 1),
    ("#### eighteen, i.e. 18", "18", 0, 1, 0, 1),
    ("The answer is 18", "18", 0, 1, 0, 1),
    ("The answer is 18.", "18", 0, 0, 0, 1),
    ("It costs $1,000", "1000", 0, 0, 0, 1),
    ("18 dollars", "18", 0, 1, 0, 1),
    ("18 dollars, ok.", "18", 0, 0, 0, 1),
    ("4 - 9 = -5", "-5", 0, 1, 0, 1),
    ("10-5", "5", 0, 0, 0, 1),
    ("no number", "18", 0, 0, 0, 0),
    (".", "18", 0, 0, 0, 0),
    ("", "18", 0, 0, 0, 0),
    # beyond the table: the same principles on neighbouring forms
    ("#### -5", "-5", 1, 1, 1, 1),
    ("#### 5", "-5", 0, 0, 0, 0),
    ("#### $-5", "-5", 0, 1, 1, 1),
    ("#### _-5_", "-5", 0, 1, 1, 1),
    ("#### 18\n#### 3", "18", 0, 0, 0, 0),
    ("18 it is\n#### 3", "18", 0, 0, 0, 0),
    ("#### .5", "0.5", 0, 0, 1, 1),
    ("#### 1,00,000", "100000", 1, 0, 1, 1),
    ("either 12,13", "13", 0, 0, 0, 1),
    ("2.50 or 2.5", "2.50", 0, 0, 0, 1),
]


@pytest.mark.parametrize(("text", "gold", "verl_strict", "verl_flexible", "own_strict", "own_flexible"), EDGE_CASES)
def test_every_edge_case_of_the_four_rules(
    text: str, gold: str, verl_strict: int, verl_flexible: int, own_strict: int, own_flexible: int
) -> None:
    expected = Grades(bool(own_strict), bool(own_flexible), bool(verl_strict), bool(verl_flexible))
    assert grade(text, gold) == expected
    assert [judge(rule, text, gold) for rule in Grades._fields] == list(expected)


@pytest.mark.parametrize(
    ("text", "gold", "own_strict", "own_flexible"),
    [
        ("#### Yes", "yes", True, True),
        ("#### **Yes.**", "yes", True, True),
        ("I think\nso, yes", "yes", False, True),
        ("#### no", "yes", False, False),
        ("The eyes", "yes", False, False),
        ("#### 3/4", "3/4", True, True),
        ("", "yes", False, False),
        ("so be it", "", False, False),
        ("", "", False, False),
    ],
)
def test_gold_answers_that_are_no_numbers_are_compared_as_words(text: str, gold: str, own_strict: bool, own_flexible: bool) -> None:
    assert (strict(text, gold), flexible(text, gold)) == (own_strict, own_flexible)


PIECES = st.sampled_from(["####", "####", " ", "\n", "18", "-", "−", "$", ",", ".", "**", "_", "x", "yes", "3", "1,000", "18.0"])


@given(st.lists(PIECES, max_size=12).map("".join), st.sampled_from(["18", "-18", "1000", "1,000", "3", "yes", "-0.5", "3/4"]))
def test_right_under_strict_is_right_under_flexible(text: str, gold: str) -> None:
    assert not strict(text, gold) or flexible(text, gold)


@given(st.text(max_size=60), st.text(max_size=10))
def test_no_text_makes_a_rule_fail(text: str, gold: str) -> None:
    assert len(grade(text, gold)) == 4


@given(st.integers(-(10**9), 10**9), st.sampled_from(["{:d}", "{:,d}", "{:d}.", "**{:,d}**", "{:d}.0", "{:d} apples"]))
def test_an_integer_in_any_usual_dress_is_recognised_and_its_neighbour_is_not(number: int, dress: str) -> None:
    text = f"12 + 5 = 17\n#### {dress.format(number)}"
    assert strict(text, str(number))
    assert strict(text.replace("-", "−"), f"{number:,d}")
    assert not flexible(text, str(number + 1))


def test_the_gold_answer_is_what_follows_the_marker() -> None:
    assert gold_answer("She makes 9 * 2 = 18.\n#### 18\n") == "18"
    assert gold_answer(" 1,000 ") == "1,000"


def test_agreement_with_the_published_verdicts_on_gsm8k() -> None:
    folder = os.environ.get("SAEDRIFT_GSM8K")
    if not folder:
        pytest.skip("SAEDRIFT_GSM8K does not name a folder holding example_model_solutions.jsonl of openai/grade-school-math")
    lines = (Path(folder) / "example_model_solutions.jsonl").read_text(encoding="utf-8").splitlines()
    agree = {"flexible": 0, "verl_flexible": 0, "strict right": 0}
    total = 0
    for row in map(json.loads, lines):
        gold = row["ground_truth"].rpartition("A:")[2].strip()
        for solution in (value for value in row.values() if isinstance(value, dict)):
            total += 1
            agree["flexible"] += flexible(solution["solution"], gold) == solution["is_correct"]
            agree["verl_flexible"] += verl_flexible(solution["solution"], gold) == solution["is_correct"]
            agree["strict right"] += strict(solution["solution"], gold)
    assert total == 5276
    assert agree == {"flexible": 5276, "verl_flexible": 5274, "strict right": 0}
