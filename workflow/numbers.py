"""Numbers in texts as exact values, whatever dress they wear: "1,234" and "1234.0" are one number, "10-5" holds no negative one.

- A hyphen (or a typographic minus) is a sign unless it stands directly behind a letter or digit; so is a plus.
- Commas group thousands or, in the Indian manner, lakhs; elsewhere they separate numbers. A full stop belongs to a number only
  with digits behind it.
- A currency sign in front and a unit or a percent sign behind change nothing: 50 % is the number 50.
- `3/4`, `1 1/2`, `1½` and `\\frac{3}{4}` are one number each, of whole parts without blanks around the bar; a date such as
  1/2/2024 is three. `1.5e3` and `1.5 × 10^3` are one number each.
- Words are no numbers.
"""

import re
import unicodedata
from collections import deque
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

MINUS = str.maketrans(dict.fromkeys("−‐‑–﹣－", "-"))
"""Typographic minus signs and what models write for them."""

DECIMAL_BITS = 10_000
"""About 3000 digits; Python refuses to write integers of more than 4300 decimal ones."""

_CURRENCY = r"[$€£¥₹]"
_DIGITS = r"(?:(?<![0-9])[0-9]{1,3}(?:,[0-9]{2,3})*,[0-9]{3}(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<![0-9])\.[0-9]+"
PLAIN_NUMBER = rf"(?P<sign>(?<![^\W_])[-+])?{_CURRENCY}?(?P<inner>(?<=[$€£¥₹])-)?(?P<digits>{_DIGITS})"
"""A decimal number, for texts whose minus signs are hyphens; its match is what `plain_value` reads."""

_VULGAR = "¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"
UNSIGNED = rf"{_DIGITS}|[{_VULGAR}]"
"""What `operand_at` begins with."""
_OPERAND = re.compile(rf"(?P<digits>{_DIGITS})|(?P<lone>[{_VULGAR}])")
_START = re.compile(rf"{PLAIN_NUMBER}|(?P<lone_sign>(?<![^\W_])-)?(?P<lone>[{_VULGAR}])")
_BAR = r"/(?P<below>[0-9]+)(?![0-9]|\.[0-9]|,[0-9]|/)"
_OVER = re.compile(_BAR)
_MIXED = re.compile(rf"[ \xa0](?P<above>[0-9]+){_BAR}")
_HALF = re.compile(rf"[ \xa0]?(?P<vulgar>[{_VULGAR}])")
_SHORT_POWER = r"[eE](?P<short>[-+]?[0-9]{1,3})(?![^\W_]|\.[0-9])"
_EXPONENT = re.compile(_SHORT_POWER)
_POWER = re.compile(
    rf"{_SHORT_POWER}"
    r"|[ \xa0]?(?:[x×*·]|\\times|\\cdot)[ \xa0]?10(?:\^|\*\*)(?P<brace>\{)?(?P<long>-?[0-9]{1,3})(?(brace)\})(?![0-9])"
)
_LATEX_FRACTION = re.compile(r"(?:(?P<whole>(?<=[0-9]))\s?)?\\[dt]?frac\{([0-9]+)\}\{([0-9]+)\}")
_LATEX_DRESS = re.compile(r"\\(?=[$%])|(?<=[0-9])\{,\}(?=[0-9])")
_PERCENT = re.compile(r"[ \xa0]?%")


class Number(NamedTuple):
    """A number in a text."""

    value: Fraction
    """Its exact value, units left out: of 50 % it is 50."""
    percent: bool
    """A percent sign follows it."""
    start: int
    """Its first character in `spelled(text)`, sign and currency included…"""
    end: int
    """…and the one behind its last."""


class Operand(NamedTuple):
    """A number without a sign, as calculations have them: what stands around it is their matter."""

    value: Fraction
    """Its exact value."""
    end: int
    """Place of the character behind its last one."""
    decimals: int
    """Digits behind the point of a number that is written with one, in units of 1."""


def spelled(text: str) -> str:
    """The text as numbers are read in it: hyphens for minus signs, LaTeX's fractions and escapes as plain characters."""
    text = _LATEX_DRESS.sub(lambda found: "," if "," in found[0] else "", text.translate(MINUS))
    return _LATEX_FRACTION.sub(lambda found: f"{'' if found['whole'] is None else ' '}{found[2]}/{found[3]}", text)


def numbers_in(text: str) -> Iterator[Number]:
    """The numbers of a text, in its order."""
    text = spelled(text)
    found = _START.search(text)
    while found:
        number = _read(found, text)
        yield number
        found = _START.search(text, number.end)


def number_behind(text: str, pattern: re.Pattern[str]) -> Number | None:
    """The number with which a text begins behind what `pattern` matches there, None where it is something else."""
    text = spelled(text)
    opening = pattern.match(text)
    found = _START.match(text, opening.end() if opening else 0)
    return _read(found, text) if found else None


def operand_at(text: str, place: int) -> Operand | None:
    """The number without a sign that begins at a place, None where there is none.

    It is read as everywhere, but for operators: a bar (but of a mixed number, 1 3/4), a sign and × 10^3 are left where they stand.
    """
    found = _OPERAND.match(text, place)
    if not found:
        return None
    if found["lone"]:
        return Operand(_vulgar(found["lone"]), found.end(), 0)
    value, end, (_, point, behind) = Fraction(found["digits"].replace(",", "")), found.end(), found["digits"].partition(".")
    if power := _EXPONENT.match(text, end):
        exponent = int(power["short"])
        return Operand(value * Fraction(10) ** exponent, power.end(), max(0, len(behind) - exponent) if point else 0)
    if not point and text[place - 1 : place] != "/":
        value, end = _with_part(value, 1, text, end)
    return Operand(value, end, len(behind))


def last_number(text: str) -> Fraction | None:
    """The value of the last number of a text, None where there is none."""
    found = deque(numbers_in(text), maxlen=1)
    return found[0].value if found else None


def as_number(text: str) -> Fraction | None:
    """The value of a text that is one number and nothing else but a percent sign, outer blanks and a full stop; else None."""
    text = spelled(text).strip()
    found = _START.match(text)
    if not found:
        return None
    number = _read(found, text)
    behind = _PERCENT.match(text, number.end) if number.percent else None
    return number.value if text[behind.end() if behind else number.end :] in ("", ".") else None


def same_number(one: str, other: str) -> bool:
    """Whether two texts are numbers of the same value."""
    value = as_number(one)
    return value is not None and value == as_number(other)


def canonical(value: Fraction) -> str:
    """The one spelling of a value: "1234", "-3/4"; in hexadecimal digits where it has more than Python writes as decimal ones."""
    if max(value.numerator.bit_length(), value.denominator.bit_length()) <= DECIMAL_BITS:
        return str(value)
    return f"{value.numerator:#x}/{value.denominator:#x}"


def plain_value(found: re.Match[str]) -> Decimal:
    """The exact value of a match of PLAIN_NUMBER."""
    value = Decimal(found["digits"].replace(",", ""))
    return value.copy_negate() if (found["sign"] == "-") != (found["inner"] is not None) else value


def legacy_last_number(text: str) -> str | None:
    """The last number of a text as the SSAE paper's code reads it, a string; None where there is none.

    Integers lose their sign, separators split a number and a fraction is its denominator: "-5" is "5", "1,234" is "234" and
    "$1,000." is "000". Only published figures are to be compared with it.

    Source: Miaow-Lab/SSAE, experiment/probing_exp.py.
    """
    found = re.findall(r"[-+]?[0-9]*\.[0-9]+|[0-9]+", text)
    return found[-1] if found else None


def _read(found: re.Match[str], text: str) -> Number:
    """The number that begins with a match of _START: with its fraction or power of ten where it has one."""
    if found["lone"]:
        value, end = _vulgar(found["lone"]) * (-1 if found["lone_sign"] else 1), found.end()
    else:
        value, end = _tail(found, text)
    return Number(value, _PERCENT.match(text, end) is not None, found.start(), end)


def _tail(found: re.Match[str], text: str) -> tuple[Fraction, int]:
    """Value and end of a decimal number and what belongs to it."""
    value, end = Fraction(plain_value(found)), found.end()
    if power := _POWER.match(text, end):
        return value * Fraction(10) ** int(power["short"] or power["long"]), power.end()
    if "." in found["digits"] or text[found.start() - 1 : found.start()] == "/":
        return value, end
    direction = -1 if (found["sign"] == "-") != (found["inner"] is not None) else 1
    if over := _OVER.match(text, end):
        return (value / int(over["below"]), over.end()) if int(over["below"]) else (value, end)
    return _with_part(value, direction, text, end)


def _with_part(value: Fraction, direction: int, text: str, end: int) -> tuple[Fraction, int]:
    """Value and end of a whole number with the fraction that makes it a mixed one, where there is one."""
    if (mixed := _MIXED.match(text, end)) and int(mixed["above"]) < int(mixed["below"]):
        return value + direction * Fraction(int(mixed["above"]), int(mixed["below"])), mixed.end()
    if half := _HALF.match(text, end):
        return value + direction * _vulgar(half["vulgar"]), half.end()
    return value, end


def _vulgar(character: str) -> Fraction:
    above, _, below = unicodedata.normalize("NFKC", character).partition("⁄")
    return Fraction(int(above), int(below))
