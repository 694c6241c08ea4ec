"""Text of a solution as the tokens of arithmetic: numbers, operators, brackets, equal signs, words, breaks.

Numbers are those of `workflow.numbers`, signs and bars left to the calculation: 3/4 is a division, 1 3/4 one number.
"""

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

from workflow.numbers import MINUS, UNSIGNED, operand_at

NUMBER, OPERATOR, OPEN, CLOSE, EQUALS, ABOUT, PERCENT, WORD, BREAK = "number", "operator", "(", ")", "=", "≈", "%", "word", "break"
MAX_DIGITS = 40
"""Digits of a number that is read; a longer one breaks a calculation."""

_REWRITTEN = (
    (re.compile(r"(?<=[0-9])\s?\\[dt]?frac\{([0-9]+)\}\{([0-9]+)\}"), r" \1/\2"),
    (re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}"), r"((\1)/(\2))"),
    (re.compile(r"\\(?:boxed|text|mathrm|mathbf)\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\times|\\cdot|\\ast"), "*"),
    (re.compile(r"\\div"), "/"),
    (re.compile(r"\\approx"), "≈"),
    (re.compile(r"\\([%$])"), r"\1"),
    (re.compile(r"(?<=[0-9)])\s*\*\*\s*(?=[0-9(])"), "^"),
    (re.compile(r"\*\*|__|`"), " "),
)
"""LaTeX and emphasis as plain arithmetic."""
_SIGNS = str.maketrans({**MINUS, **dict.fromkeys("×·⋅∙✕", "*"), "÷": "/", "＝": "=", "[": "(", "]": ")"})
_SPOKEN = {"plus": "+", "minus": "-", "times": "*", "x": "*", "of": "*"}
"""Words that stand for operators between two numbers; `of` behind a per cent sign alone."""
_TOKEN = re.compile(
    rf"(?P<number>{UNSIGNED})|(?P<times>[xX](?=\s*[$€£¥₹]?(?:{UNSIGNED}|\()))"
    r"|(?P<word>[^\W\d_](?:\w|['’-](?=[^\W\d_]))*)|(?P<operator>[-+*/^])|(?P<open>\()|(?P<close>\))"
    r"|(?P<equals>=)|(?P<about>≈)|(?P<percent>%)|(?P<blank>[^\S\n]+|[$€£¥₹])|(?P<break>.|\n)"
)
_KINDS = {
    "number": NUMBER, "operator": OPERATOR, "open": OPEN, "close": CLOSE, "equals": EQUALS, "about": ABOUT, "percent": PERCENT,
    "word": WORD, "break": BREAK,
}  # fmt: skip
_DIVIDED_BY = re.compile(r"\bdivided\s+by\b", re.IGNORECASE)


class Token(NamedTuple):
    """One piece of a text."""

    kind: str
    text: str
    glued: bool
    """Nothing stands between it and the token before."""
    leads: bool
    """Nothing stands between it and the token behind."""
    value: Fraction = Fraction()
    """Of a number."""
    decimals: int = 0
    """Digits of a number behind its point."""

    @property
    def operand_ends(self) -> bool:
        """Whether an operand may end with it."""
        return self.kind in (NUMBER, CLOSE, PERCENT)


def plain(text: str) -> str:
    """The text with LaTeX, typographic signs and emphasis in their plain form."""
    text = text.translate(_SIGNS)
    for pattern, replacement in _REWRITTEN:
        text = pattern.sub(replacement, text)
    return _DIVIDED_BY.sub(" / ", text)


def tokens(text: str) -> list[Token]:
    """The tokens of a text; currency signs and blanks are left out, spoken operators are operators."""
    found = list(_raw(plain(text)))
    for place in range(1, len(found) - 1):
        before, token, behind = found[place - 1 : place + 2]
        sign = _SPOKEN.get(token.text.casefold()) if token.kind == WORD else None
        if sign and before.operand_ends and behind.kind in (NUMBER, OPEN) and (token.text != "of" or before.kind == PERCENT):
            found[place] = token._replace(kind=OPERATOR, text=sign)
    return found


def _raw(text: str) -> Iterator[Token]:
    last, place, waiting = -1, 0, None
    while match := _TOKEN.match(text, place):
        name, begin, place = match.lastgroup or "break", match.start(), match.end()
        if name == "blank":
            continue
        token = Token(_KINDS.get(name, OPERATOR), match[0], begin == last, False)
        if name == "number":
            token, place = _number(token, text, begin)
        if waiting:
            if name == "times" and not waiting.operand_ends:  # an unknown, as in `x (3 + 4)`
                token = token._replace(kind=WORD)
            yield waiting._replace(leads=token.glued)
        elif name == "times":
            token = token._replace(kind=WORD)
        waiting = token._replace(text="*") if name == "times" and token.kind == OPERATOR else token
        last = place
    if waiting:
        yield waiting


def _number(token: Token, text: str, begin: int) -> tuple[Token, int]:
    """The number that begins with a token, and where it ends."""
    if len(token.text) > MAX_DIGITS:
        return token._replace(kind=BREAK), begin + len(token.text)
    found = operand_at(text, begin)
    assert found, "the token begins as an operand does"
    return token._replace(text=text[begin : found.end], value=found.value, decimals=found.decimals), found.end
