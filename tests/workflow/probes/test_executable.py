"""Executable labels: arithmetic and annotations re-evaluated, final answers judged, numbers out of nowhere found."""

import random
from fractions import Fraction

import pytest
from small_traces import random_trace

from workflow.answers import grade
from workflow.formats.traces import Trace
from workflow.probes.executable import Known, Verdict, read_step, verdicts

QUESTION = "Tom has 3 boxes of 4 pens and gives half of 20% away."


def judged(*steps: str, gold: str = "12", question: str = QUESTION, constants: tuple[float, ...] = (100,)) -> list[Verdict]:
    """Verdicts on the steps of one solution."""
    blank = random_trace("test", 0, 0, random.Random(0))
    trace = Trace(**(blank._asdict() | grade("\n".join(steps), gold)._asdict() | {"gold": gold}))
    return verdicts(trace, steps, question, constants)


def test_equations_decide_whether_a_step_is_correct() -> None:
    found = judged("3 * 4 = 12", "12 - 4 = 9", "he gives some away", "#### 12")
    assert [(one.correct, one.how) for one in found] == [
        (True, "arithmetic"), (False, "arithmetic"), (None, None), (True, "final_answer"),
    ]  # fmt: skip


def test_annotations_are_checked_beside_the_text() -> None:
    found = judged("3 * 4 = <<3*4=12>>12", "3 * 4 = <<3*4=13>>12", "3 * 4 = <<3*4=12>>13", "<<3*4=12>>", "12<<x>>")
    assert [(one.correct, one.how) for one in found] == [
        (True, "annotation"), (False, "annotation"), (False, "annotation"), (True, "annotation"), (True, "final_answer"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("steps", "gold", "last"),
    [
        (("3 * 4 = 12", "#### 12"), "12", (True, "final_answer")),
        (("3 * 4 = 12", "#### 13"), "12", (False, "final_answer")),
        (("#### 3 * 4 = 12",), "3", (True, "arithmetic")),
        (("#### 3 * 4 = 12",), "12", (False, "arithmetic")),
        (("3 * 4 = 12", "it is 12"), "12", (True, "final_answer")),
        (("3 * 4 = 12", "it is 13"), "12", (False, "final_answer")),
        (("3 * 4 = 12", "it is what it is"), "12", (None, None)),
    ],
)
def test_the_step_with_the_final_answer_is_judged_by_the_rules(steps: tuple, gold: str, last: tuple) -> None:
    assert judged(*steps, gold=gold)[-1][:2] == last


def test_an_answer_that_is_taken_back_is_not_the_final_one() -> None:
    assert [one.correct for one in judged("#### 13", "no", "#### 12")] == [None, None, True]


@pytest.mark.parametrize(
    ("step", "logical"),
    [
        ("3 * 4 = 12", True),
        ("3 * 5 = 15", False),
        ("3 * 4 = 12, 12 + 3 = 15", True),
        ("12 - 4 = 8", False),
        ("4 * 0.2 = 0.8", True),
        ("4 * 0.8 = 3.2", True),
        ("4 * 1.2 = 4.8", True),
        ("4 * 0.3 = 1.2", False),
        ("4 * 0.5 = 2", True),
        ("4 / 100 = 0.04", True),
        ("he has 7 pens, 7 + 3 = 10", False),
        ("no equation", None),
        ("3 * 4 = 13", True),
    ],
)
def test_a_step_is_logical_if_its_numbers_were_there(step: str, logical: bool | None) -> None:
    assert judged(step)[0].logical is logical


def test_numbers_of_earlier_steps_are_known_later() -> None:
    assert [one.logical for one in judged("3 * 4 = 12", "12 + 3 = 15", "9 + 15 = 24", "24 - 9 = 15")] == [True, True, False, True]


def test_constants_need_no_naming() -> None:
    assert judged("4 * 7 = 28", constants=())[0].logical is False
    assert judged("4 * 7 = 28", constants=(7,))[0].logical is True


def test_words_of_the_question_count() -> None:
    known = Known("a dozen eggs, twice as many hens", [])
    assert known.follows(read_step("12 * 2 = 24"))
    assert known.follows(read_step("24 / 5 = 4.8")) is False


def test_numbers_beside_annotations_are_read_once() -> None:
    assert read_step("3 * 4 = <<3*4=12>>12").numbers == [Fraction(3), Fraction(4), Fraction(12)]
