"""Numbers in texts: every dress of one value, nothing else read as a number, and the published reading beside it."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflow.answers import MARKER, final_answer, final_gold, flexible
from workflow.numbers import as_number, canonical, last_number, legacy_last_number, numbers_in, same_number, spelled


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("-5", "-5"),
        ("−5 and –6", "-5 -6"),
        ("+7", "7"),
        ("1,234", "1234"),
        ("1,00,000", "100000"),
        ("12,13", "12 13"),
        ("1{,}234", "1234"),
        ("It costs $1,000.", "1000"),
        ("-$5, $-5, \\$5, -€5", "-5 -5 5 -5"),
        ("10-5", "10 5"),
        ("pre-2", "2"),
        ("4 - 9 = -5", "4 9 -5"),
        ("50%, 50 %", "50 50"),
        ("18km and 5th", "18 5"),
        ("7. Then .5", "7 1/2"),
        ("3/4", "3/4"),
        ("-3/4", "-3/4"),
        ("1 1/2", "3/2"),
        ("-1 1/2", "-3/2"),
        ("1½, ½, -½", "3/2 1/2 -1/2"),
        ("5 3/2", "5 3/2"),
        ("1,000/4", "250"),
        ("48/2=24", "24 24"),
        ("1/2/2024", "1 2 2024"),
        ("5/0", "5 0"),
        ("3/4.5", "3 9/2"),
        ("2.5/5", "5/2 5"),
        ("\\frac{3}{4}, 2\\dfrac{1}{2}, 5 - \\frac{1}{3}", "3/4 5/2 5 1/3"),
        ("1.5e3, 1.5E-3, 2e", "1500 3/2000 2"),
        ("1.5 × 10^3, 2*10**2, 3x10^{-1}, 3 \\times 10^{2}", "1500 200 3/10 300"),
        ("eighteen, none", ""),
        ("", ""),
    ],
)
def test_every_dress_of_a_number(text: str, values: str) -> None:
    assert [number.value for number in numbers_in(text)] == [Fraction(value) for value in values.split()]


def test_a_number_tells_where_it_stands_and_whether_it_is_a_percentage() -> None:
    text = "Take −$1,000 or \\frac{1}{2} or 20 % of it"
    found = list(numbers_in(text))
    assert [spelled(text)[number.start : number.end] for number in found] == ["-$1,000", "1/2", "20"]
    assert [number.percent for number in found] == [False, False, True]


@given(st.fractions(max_denominator=10**6) | st.integers(-(10**40), 10**40).map(Fraction))
def test_the_one_spelling_of_a_value_is_read_as_that_value(value: Fraction) -> None:
    assert as_number(canonical(value)) == value


DRESSES = st.sampled_from(["{:d}", "{:,d}", "{:d}.0", "{:,d}.00", "{:d}%", " {:d}. ", "{:d}e0", "{:d}/1"])


@given(st.integers(-(10**12), 10**12), DRESSES)
def test_all_dresses_of_an_integer_are_the_same_number_and_its_neighbour_is_not(number: int, dress: str) -> None:
    text = dress.format(number)
    assert same_number(text, str(number))
    assert same_number(text.replace("-", "−"), str(number))
    assert not same_number(text, str(number + 1))


@pytest.mark.parametrize("text", ["18 apples", "10-5", "", ".", "yes", "3, 4", "5%%", "- 5"])
def test_a_text_that_holds_more_than_a_number_is_none(text: str) -> None:
    assert as_number(text) is None
    assert not same_number(text, text)


def test_numbers_of_any_length_are_exact() -> None:
    nines = "9" * 6000
    assert as_number(nines) == Fraction(10) ** 6000 - 1
    assert final_answer(nines) != final_answer(nines[:-1] + "8")
    assert final_answer("1" * 40) != final_answer("1" * 39 + "2")
    assert not flexible("1" * 39 + "2", "1" * 40)


@pytest.mark.parametrize(
    ("text", "found"),
    [("-5", "5"), ("-5.50", "-5.50"), ("1,234", "234"), ("$1,000.", "000"), ("7.", "7"), ("#### 72", "72"), ("3/4", "4")],
)
def test_the_published_reading_keeps_its_defects(text: str, found: str) -> None:
    assert legacy_last_number(text) == found
    assert legacy_last_number("no number") is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("3 and 4\n#### 1,234.0 apples, not 5", "1234"),
        ("#### **-$0.75**", "-3/4"),
        ("12 > 5\n#### Yes.", "yes"),
        ("#### eighteen, i.e. 18", "18"),
        ("it is 18\n####", "18"),
        ("The answer is 3/4", "3/4"),
        ("#### 3\n#### 4", "4"),
        ("no idea", None),
        ("", None),
    ],
)
def test_the_final_answer_is_behind_the_marker_or_the_last_number(text: str, answer: str | None) -> None:
    assert final_answer(text) == answer


PIECES = st.sampled_from([MARKER, " ", "\n", "18", "-", "−", "$", ",", ".", "**", "_", "x", "3", "1,000", "18.0"])


@given(st.lists(PIECES, max_size=12))
def test_decimal_answers_are_right_where_the_flexible_rule_says_so(pieces: list[str]) -> None:
    text = "".join(pieces)
    answer = final_answer(text)
    for gold in ("18", "-18", "1,000", "3"):
        if answer is None or as_number(answer) is not None:
            assert (answer == final_gold(gold)) == flexible(text, gold)


@given(st.text(max_size=60))
def test_no_text_makes_the_reading_fail(text: str) -> None:
    assert last_number(text) is None or final_answer(text) is not None
