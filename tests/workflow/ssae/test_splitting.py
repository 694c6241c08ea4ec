"""Solutions in steps: worked examples of the published data, irregular input, and that nothing of a text is lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflow.ssae.forms import TEXT_FORMS, StepRules
from workflow.ssae.solutions import Solution
from workflow.ssae.splitting import CONNECTORS, code_steps, line_steps, sentence_steps
from workflow.ssae.step_contexts import text_steps


@pytest.mark.parametrize(
    ("answer", "steps"),
    [
        ("a\nb", ["a\nb"]),
        ("a\nb\nc", ["a", "b\nc"]),
        ("x. y. z", ["x", "y", "z"]),
        ("", [""]),
        ("one line", ["one line"]),
        ("a. b\nc", ["a. b\nc"]),
        ("a\n\nb\n\nc", ["a", "b\nc"]),
        ("a\n\n\nb\nc", ["a", "", "b\nc"]),
        ("a\nb\n", ["a", "b\n"]),
        (" \nb\nc\nd", [" ", "b", "c\nd"]),
    ],
)
def test_lines_are_steps_and_the_last_two_are_one(answer: str, steps: list[str]) -> None:
    assert line_steps(answer) == steps


WORKED = "We have 1. Then 2. So x = 5. Therefore"


def test_lines_of_code_keep_their_indentation_and_blank_ones_go() -> None:
    assert code_steps("def f():\n\n    return 1\n \t\n") == ["def f():", "    return 1"]
    assert code_steps("x\r\n\r\ny") == ["x\r", "y"]
    assert code_steps(" \n") == []


@pytest.mark.parametrize(
    ("text", "steps", "glued"),
    [
        (WORKED, [WORKED], ["We have 1.Then 2.So x = 5.Therefore"]),
        ("It is so. Now it is not! Is it? Yes", ["It is so.", "Now it is not!", "Is it?", "Yes"], None),
        ("it is so. now it is not", ["it is so. now it is not"], None),
        ("a line\nand another", ["a line and another"], ["a lineand another"]),
        ("A line.\nAnother", ["A line.", "Another"], ["A line.Another"]),
        ("It follows:\nthat", ["It follows: that"], None),
        ("Note that $$a. B$$ holds", ["Note that", "$$a.", "B$$", "holds"], None),
        ("We get: $$x\n= 1$$ and \\[y\\]", ["We get: $$x = 1$$", "and", "\\[y\\]"], None),
        ("$$x$$", ["$$x$$"], None),
        ("an open $$x", ["an open $$x"], None),
        ("A\n- b\n* c\n3. **D** is\n4. not", ["A", "- b", "* c", "3. **D** is 4. not"], ["A", "- b", "* c", "3. **D** is4. not"]),
        ("x = 1\nso x > 0\nTHUS\ny", ["x = 1", "so x > 0", "THUS y"], ["x = 1", "so x > 0", "THUSy"]),
        ("Sofa\nsociety", ["Sofa society"], ["Sofasociety"]),
        ("Therefore, $$x$$", ["Therefore, $$x$$"], None),
        ("Then. We go", ["Then. We go"], None),
        ("Wide   \t blanks.   Next", ["Wide blanks.", "Next"], None),
        ("Step 2. Let x", ["Step 2. Let x"], ["Step 2.Let x"]),
        ("x2. Let x", ["x2.", "Let x"], None),
        ("", [], None),
        (" \n \n", [], None),
    ],
)  # fmt: skip
def test_sentences_are_steps(text: str, steps: list[str], glued: list[str] | None) -> None:
    assert sentence_steps(text) == steps
    assert sentence_steps(text, glued=True) == (steps if glued is None else glued)


PIECES = [
    "$$",
    "\\[",
    "\\]",
    " ",
    "  ",
    "\n",
    ". ",
    "? ",
    ":",
    ": ",
    "- ",
    "* ",
    "1. **",
    "12",
    "x",
    "We",
    ".",
    ",",
    *CONNECTORS[:4],
    "So",
]


@given(st.lists(st.sampled_from(PIECES), max_size=16).map("".join), st.booleans())
def test_sentences_keep_every_character_but_white_space(text: str, glued: bool) -> None:
    steps = sentence_steps(text, glued=glued)
    assert "".join("".join(steps).split()) == "".join(text.split())
    assert all(step == " ".join(step.split()) and step for step in steps)


@given(st.lists(st.sampled_from(["a", "B.", "so", "1."]), min_size=1, max_size=6))
def test_words_never_grow_together(words: list[str]) -> None:
    for joint in (" ", "\n", "  \n "):
        assert " ".join(sentence_steps(joint.join(words))).split() == words


def contexts(form: str, parts: list[list[str]]) -> list[tuple[str, str, int]]:
    return [tuple(step) for step in text_steps(Solution("p", 1, "Q", parts), TEXT_FORMS[form].joint)]


def test_contexts_join_what_came_before_as_each_format_says() -> None:
    assert contexts("gsm8k", [["a", "b", "c"]]) == [("Q ", "a", 0), ("Q a", "b", 1), ("Q ab", "c", 2)]
    assert contexts("opencodeinstruct", [["a", " b", "c"]])[2] == ("Q a\n b", "c", 2)
    assert contexts("numina", [["a", "b"], ["c", "d"]]) == [
        ("Q ", "a", 0),
        ("Q a", "b", 1),
        ("Q a b ", "c", 2),
        ("Q a b c", "d", 3),
    ]


def test_a_blank_step_is_left_out_and_stays_in_the_context() -> None:
    assert contexts("gsm8k", [["a", " ", "b"]]) == [("Q ", "a", 0), ("Q a ", "b", 2)]


def test_each_format_has_its_rule() -> None:
    text = "One. Two\n three"
    assert StepRules(format="gsm8k").cut()(text) == ["One. Two\n three"]
    assert StepRules(format="opencodeinstruct").cut()(text) == ["One. Two", " three"]
    assert StepRules(format="numina").cut()(text) == ["One.", "Two three"]
    assert StepRules(format="numina", numina_join=True).cut()(text) == ["One.", "Twothree"]
