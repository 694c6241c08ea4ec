"""Equations that a text states, re-evaluated exactly: `equations("3 pens * $2 = $6, so 6 + 1 = 8")`.

What is read: numbers (thousands separators, decimals, per cent, currency signs), + - * / x × ÷ ^ and % with their usual precedence,
brackets, chains such as a = b = c. Units behind a number are skipped (`3 pens`, `5/hour`). A `%` between two numbers is the
remainder, else per cent. Nothing is ever evaluated by Python itself.

What is not read says nothing: calculations with unknowns, mixed numbers, words in the place of an operand, division by 0, powers
beyond 64. A calculation that is only half understood is left out rather than called wrong.

When two sides are equal: exactly; or up to half a unit in the last place of a side that is one number with decimals (10/3 = 3.33),
with ≈ also of a whole number (10/3 ≈ 3). A per cent number may stand for itself, too (3/5 * 100 = 60%).
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

from workflow.arithmetic_tokens import ABOUT, BREAK, CLOSE, EQUALS, NUMBER, OPEN, OPERATOR, PERCENT, WORD, Token, tokens

MAX_SIDE = 80
"""Tokens of one side that are looked at."""
MAX_EXPONENT, MAX_BITS = 64, 4096
UNCLEAR = frozenset(
    [
        "of", "half", "twice", "thrice", "double", "triple", "quarter", "third", "times", "by", "divided", "than", "minus", "plus",
        "less", "negative", "per", "square", "squared", "sqrt", "root", "log", "modulo", "mod", "remainder", "percent",
    ]
)  # fmt: skip
"""Words in front of a number after which a calculation is not the one that its digits tell."""
ARTICLES = ("a", "i")


class Side(NamedTuple):
    """One side of an equation."""

    value: Fraction
    operands: tuple[Fraction, ...]
    """Its numbers as they are written, per cent signs left aside."""
    calculated: bool
    """It holds an operation."""
    decimals: int = 0
    """Digits behind the point, where it is one number."""
    percent: bool = False
    """It is one number with a per cent sign."""


class Equation(NamedTuple):
    """A chain of sides, at least one of them calculated."""

    sides: tuple[Side, ...]
    holds: bool

    @property
    def operands(self) -> tuple[Fraction, ...]:
        """What the first calculated side starts from."""
        return next(side.operands for side in self.sides if side.calculated)

    @property
    def results(self) -> tuple[Fraction, ...]:
        """Values and numbers of all sides: what is known behind the equation."""
        return tuple(number for side in self.sides for number in (side.value, *side.operands))


def equations(text: str) -> list[Equation]:
    """Every equation of a text that can be read, in its order."""
    return [found for segment in _segments(tokens(text)) for found in _in_segment(segment)]


def numbers(text: str) -> list[Fraction]:
    """All numbers of a text as they are written, without signs."""
    return [token.value for token in tokens(text) if token.kind == NUMBER]


def _segments(found: Sequence[Token]) -> Iterator[list[Token]]:
    segment: list[Token] = []
    for token in found:
        if token.kind == BREAK:
            yield segment
            segment = []
        else:
            segment.append(token)
    yield segment


def _in_segment(segment: list[Token]) -> Iterator[Equation]:
    parts, signs = [[]], []
    for token in segment:
        if token.kind in (EQUALS, ABOUT):
            signs.append(token.kind)
            parts.append([])
        else:
            parts[-1].append(token)
    chain: list[Side] = []
    kept: list[str] = []
    for number, part in enumerate(parts):
        whole = _read(part) if len(part) <= MAX_SIDE else None
        if number and chain and (closing := whole or _prefix(part)):
            chain.append(closing)
            kept.append(signs[number - 1])
        if whole is None or not chain:
            yield from _equation(chain, kept)
            opening = whole or (_suffix(part) if number < len(parts) - 1 else None)
            chain, kept = ([opening] if opening else []), []
    yield from _equation(chain, kept)


def _equation(chain: Sequence[Side], signs: Sequence[str]) -> Iterator[Equation]:
    if len(chain) > 1 and any(side.calculated for side in chain):
        holds = all(_equal(a, b, sign == ABOUT) for (a, b), sign in zip(pairwise(chain), signs, strict=True))
        yield Equation(tuple(chain), holds)


def _equal(left: Side, right: Side, about: bool) -> bool:
    return any(
        abs(a - b) <= max(slack_a, slack_b) for a, slack_a in _readings(left, about) for b, slack_b in _readings(right, about)
    )


def _readings(side: Side, about: bool) -> Iterator[tuple[Fraction, Fraction]]:
    """Values that a side may stand for, each with how far a rounded number may be from what it was rounded from."""
    rounded = not side.calculated and (side.decimals > 0 or about)
    slack = Fraction(1, 2 * 10**side.decimals) if rounded else Fraction(0)
    yield side.value, slack / (100 if side.percent else 1)
    if side.percent:
        yield side.value * 100, slack


def _suffix(part: list[Token]) -> Side | None:
    """The longest end of a side that is a calculation, if what stands before it cannot belong to it."""
    for start in range(max(1, len(part) - MAX_SIDE), len(part)):
        if found := _read(part[start:]):
            return found if _may_begin_behind(part, start) else None
    return None


def _may_begin_behind(part: list[Token], start: int) -> bool:
    before = part[start - 1]
    match before.kind:
        case "word":
            name = before.text.casefold()
            return (len(name) > 1 or name in ARTICLES) and name not in UNCLEAR and not part[start].glued
        case "operator":  # a bullet
            return start == 1 and before.text in "-*+" and not part[start].glued
        case "(":
            return start == 1 or part[start - 2].kind == WORD
        case ")":  # a numbered line
            return start <= 3 and all(token.kind in (NUMBER, WORD, OPEN, CLOSE) for token in part[:start])
    return False


def _prefix(part: list[Token]) -> Side | None:
    """The longest beginning of a side that is a calculation, if what stands behind it cannot belong to it."""
    for end in range(min(len(part) - 1, MAX_SIDE), 0, -1):
        if part[end - 1].kind != WORD and (found := _read(part[:end])):
            return found if _may_end_before(part, end) else None
    return None


def _may_end_before(part: list[Token], end: int) -> bool:
    behind = part[end]
    match behind.kind:
        case "word":
            return _no_unknown(behind)
        case "operator" | "(":
            return end + 1 == len(part) or (part[end + 1].kind == WORD and _no_unknown(part[end + 1]))
        case ")":
            return True
    return False


def _no_unknown(word: Token) -> bool:
    return len(word.text) > 1 or (word.text.casefold() in ARTICLES and not word.glued)


def _read(part: Sequence[Token]) -> Side | None:
    """A side as a whole, units left out; None where it is no calculation."""
    bare = _without_units(part)
    if not bare:
        return None
    reading = _Reading(bare)
    try:
        value = reading.sum()
    except (_Unreadable, RecursionError):
        return None
    if reading.place < len(bare):
        return None
    single = len(reading.operands) == 1 and not reading.calculated
    return Side(
        value, tuple(reading.operands), reading.calculated, reading.decimals if single else 0,
        single and any(token.kind == PERCENT for token in bare),
    )  # fmt: skip


def _without_units(part: Sequence[Token]) -> list[Token] | None:
    """The tokens without words behind numbers; None where a word stands anywhere else, or may be an unknown."""
    kept: list[Token] = []
    place = 0
    while place < len(part):
        token = part[place]
        rate = token.text == "/" and place + 1 < len(part) and part[place + 1].kind == WORD
        if token.kind != WORD and not rate:
            kept.append(token)
            place += 1
            continue
        if not kept or not kept[-1].operand_ends:
            return None
        place += rate
        while place < len(part) and part[place].kind == WORD:
            if len(part[place].text) == 1 or part[place].text.casefold() in UNCLEAR - {"per"}:
                return None
            place += 1
        if place < len(part) and part[place].kind in (NUMBER, OPEN):
            return None
    return kept


class _Unreadable(Exception):  # noqa: N818 - no error: it ends a reading
    pass


class _Reading:
    """Recursive descent: sums of products of powers of signed numbers and brackets."""

    def __init__(self, part: Sequence[Token]) -> None:
        self._part, self.place = part, 0
        self.operands: list[Fraction] = []
        self.calculated, self.decimals = False, 0

    def _next(self) -> Token | None:
        return self._part[self.place] if self.place < len(self._part) else None

    def _operator(self, signs: str) -> str | None:
        """The operator at this place, if it is one of these; it is left behind."""
        token = self._next()
        if token and token.kind == OPERATOR and token.text in signs:
            self.place += 1
            self.calculated = True
            return token.text
        if token and token.kind == PERCENT and "%" in signs:
            self.place += 1
            self.calculated = True
            return "%"
        return None

    def sum(self) -> Fraction:
        value = self._product()
        while sign := self._operator("+-"):
            other = self._product()
            value = value + other if sign == "+" else value - other
        return value

    def _product(self) -> Fraction:
        value = self._power()
        while sign := self._operator("*/%"):
            other = self._power()
            if sign != "*" and not other:
                raise _Unreadable
            value = value * other if sign == "*" else value / other if sign == "/" else value % other
        return value

    def _power(self) -> Fraction:
        token = self._next()
        if token and token.kind == OPERATOR and token.text in "+-" and token.leads:
            self.place += 1  # a sign is written to its number; with a blank between them it is an operator
            return -self._power() if token.text == "-" else self._power()
        value = self._single()
        if self._operator("^"):
            exponent = self._power()
            large = value.numerator.bit_length() + value.denominator.bit_length()
            if exponent.denominator != 1 or abs(exponent) > MAX_EXPONENT or large * abs(exponent) > MAX_BITS:
                raise _Unreadable
            if not value and exponent < 0:
                raise _Unreadable
            value = value ** int(exponent)
        return value

    def _single(self) -> Fraction:
        token = self._next()
        if token is None or token.kind not in (NUMBER, OPEN):
            raise _Unreadable
        self.place += 1
        if token.kind == NUMBER:
            value = token.value
            self.operands.append(value)
            self.decimals = token.decimals
        else:
            value = self.sum()
            closing = self._next()
            if closing is None or closing.kind != CLOSE:
                raise _Unreadable
            self.place += 1
        return value / 100 if self._percent() else value

    def _percent(self) -> bool:
        """A per cent sign that no operand follows; it is left behind."""
        token = self._next()
        if token is None or token.kind != PERCENT:
            return False
        behind = self._part[self.place + 1] if self.place + 1 < len(self._part) else None
        if behind and behind.kind in (NUMBER, OPEN):
            return False
        self.place += 1
        return True
