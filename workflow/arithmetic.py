"""Equations that a text states, re-evaluated exactly: `equations("3 pens * $2 = $6, so 6 + 1 = 8")`.

What is read: numbers as `workflow.numbers` reads them (thousands and lakhs, decimals, mixed numbers, currency signs), per cent,
+ - * / x × ÷ ^ and % with their usual precedence, brackets, chains such as a = b = c. Units behind a number are skipped (`3 pens`,
`5/hour`). A `%` between two numbers is the remainder, else per cent. Nothing is ever evaluated by Python itself.

What is not read says nothing: calculations with unknowns, words in the place of an operand, division by 0, powers
beyond 64. A calculation that is only half understood is left out rather than called wrong.

When two sides are equal: exactly; or up to half a unit in the last place of a side that is one number with decimals (10/3 = 3.33),
with ≈ also of a whole number (10/3 ≈ 3). A per cent number may stand for itself, too (3/5 * 100 = 60%).
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

from workflow.arithmetic_sides import MAX_SIDE, Side, prefix, read, suffix
from workflow.arithmetic_tokens import ABOUT, BREAK, EQUALS, NUMBER, Token, tokens


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
        whole = read(part) if len(part) <= MAX_SIDE else None
        if number and chain and (closing := whole or prefix(part)):
            chain.append(closing)
            kept.append(signs[number - 1])
        if whole is None or not chain:
            yield from _equation(chain, kept)
            opening = whole or (suffix(part) if number < len(parts) - 1 else None)
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
