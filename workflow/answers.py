"""Answer rules: is the final answer of a response right? Four by name, because published accuracies differ by rule alone.

`verl_strict` and `verl_flexible` do exactly what verl 0.8 does for GSM8K, defects included, so that runs made there can be read.
`strict` and `flexible` are our own; a response right under `strict` is right under `flexible` by construction.
"""

import re
from decimal import Decimal
from typing import NamedTuple

from workflow.config.prompts import AnswerRule
from workflow.numbers import MINUS, PLAIN_NUMBER, as_number, canonical, last_number, number_behind, plain_value

RULES_VERSION = "2"
"""Changes with every change of what a rule accepts; it travels with every graded trace."""

MARKER = "####"
VERL_WINDOW = 300
"""verl looks at so many characters at the end of a response."""

_VERL_STRICT = re.compile(r"#### (-?[0-9.,]+)")
_VERL_FLEXIBLE = re.compile(r"-?[0-9.,]+")

_ANY_NUMBER = re.compile(PLAIN_NUMBER)
_AFTER_MARKER = re.compile(rf"[ \t\xa0]*(?:[*_`~]|\\\$|[ \t\xa0])*{PLAIN_NUMBER}")
_GOLD_NUMBER = re.compile(rf"{PLAIN_NUMBER}%?\.?")
_DRESS = re.compile(r"[ \t\xa0*_`~]*")
_DIGIT = re.compile(r"[0-9]")
_DECORATION = " \t\xa0*_`~.!\"'"


class Grades(NamedTuple):
    """The verdict of every rule on one response."""

    strict: bool
    """The last `####` of the text is followed by the gold number (blanks, currency and emphasis marks between them allowed)."""
    flexible: bool
    """The number behind the last marker, or without one the last number of the text, is the gold number."""
    verl_strict: bool
    """verl's default rule: string equality of what follows the last `#### ` in the last 300 characters."""
    verl_flexible: bool
    """verl's loose rule: string equality of the last run of digits, dots and commas in the last 300 characters."""


def grade(text: str, gold: str) -> Grades:
    """What each rule says of a response, special tokens removed, against the gold answer."""
    return Grades(strict(text, gold), flexible(text, gold), verl_strict(text, gold), verl_flexible(text, gold))


def judge(rule: AnswerRule, text: str, gold: str) -> bool:
    """What one rule says of a response."""
    match rule:
        case "strict":
            return strict(text, gold)
        case "flexible":
            return flexible(text, gold)
        case "verl_strict":
            return verl_strict(text, gold)
        case "verl_flexible":
            return verl_flexible(text, gold)


def gold_answer(text: str) -> str:
    """The gold answer in a text of a data set: what follows its last marker `####`, else all of it; without outer blanks."""
    return text.rpartition(MARKER)[2].strip()


def final_answer(text: str) -> str | None:
    """What a response answers, so spelled that equal answers are equal texts; None where it answers nothing.

    The number behind the last marker `####`; else the words on the marker's line, where it holds no digit; else the last number of
    the text. A number is its exact value ("1,234" and "1234.0" are "1234", "0.75" is "3/4"), words have no case and one blank
    between them. The gold answer takes no part in it.
    """
    _, marker, behind = text.rpartition(MARKER)
    marked = number_behind(behind, _DRESS) if marker else None
    if marked is not None:
        return canonical(marked.value)
    words = _plain(_marked_line(text))
    if words and not _DIGIT.search(words):
        return words
    value = last_number(text)
    return None if value is None else canonical(value)


def final_gold(gold: str) -> str | None:
    """The gold answer in the spelling of `final_answer`; None where it is empty."""
    value = as_number(gold)
    return _plain(gold) or None if value is None else canonical(value)


def verl_strict(text: str, gold: str) -> bool:
    """Right for verl's default rule.

    Source: volcengine/verl, verl/utils/reward_score/gsm8k.py at b178a3c (0.8.0.dev), method "strict".
    """
    found = _VERL_STRICT.findall(text[-VERL_WINDOW:])
    return bool(found) and found[-1].replace(",", "") == gold.replace(",", "")


def verl_flexible(text: str, gold: str) -> bool:
    """Right for verl's loose rule, which keeps commas and sentence ends and is no superset of its strict one.

    Source: as verl_strict, method "flexible".
    """
    found = _VERL_FLEXIBLE.findall(text[-VERL_WINDOW:])
    return bool(found) and next((run for run in reversed(found) if run != "."), ".") == gold.replace(",", "")


def strict(text: str, gold: str) -> bool:
    """Right if the gold answer follows the last marker; where the gold is no number, if it is all that its line holds."""
    text, number = text.translate(MINUS), _gold_number(gold)
    if number is None:
        return bool(_plain(gold)) and _plain(gold) == _plain(_marked_line(text))
    return _marked_number(text) == number


def flexible(text: str, gold: str) -> bool:
    """Right if `strict` is; with no answer behind the marker, if the last number (for a gold text: the last line) is right."""
    text, number = text.translate(MINUS), _gold_number(gold)
    if number is None:
        return strict(text, gold) or _ends_with(text, gold)
    marked = _marked_number(text)
    return (_last_number(text) if marked is None else marked) == number


def _marked_number(text: str) -> Decimal | None:
    """The number directly behind the last marker."""
    _, marker, behind = text.rpartition(MARKER)
    found = _AFTER_MARKER.match(behind) if marker else None
    return plain_value(found) if found else None


def _last_number(text: str) -> Decimal | None:
    found = list(_ANY_NUMBER.finditer(text))
    return plain_value(found[-1]) if found else None


def _gold_number(gold: str) -> Decimal | None:
    found = _GOLD_NUMBER.fullmatch(gold.translate(MINUS).strip())
    return plain_value(found) if found else None


def _marked_line(text: str) -> str:
    """What follows the last marker on its line, "" without a marker."""
    _, marker, behind = text.rpartition(MARKER)
    return behind.split("\n", 1)[0] if marker else ""


def _ends_with(text: str, gold: str) -> bool:
    """The last line that holds anything ends with the gold text as whole words."""
    lines = [line for line in text.splitlines() if line.strip()]
    return bool(lines and _plain(gold)) and re.search(rf"(?<!\w){re.escape(_plain(gold))}$", _plain(lines[-1])) is not None


def _plain(text: str) -> str:
    """Text for comparing words: one blank between them, no emphasis and end mark around them, no case."""
    return " ".join(text.translate(MINUS).split()).strip(_DECORATION).casefold()
