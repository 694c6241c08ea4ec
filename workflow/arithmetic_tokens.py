"""Text of a solution as the tokens of arithmetic: numbers, operators, brackets, equal signs, words, breaks."""

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

NUMBER, OPERATOR, OPEN, CLOSE, EQUALS, ABOUT, PERCENT, WORD, BREAK = "number", "operator", "(", ")", "=", "≈", "%", "word", "break"
MAX_DIGITS = 40
"""Digits of a number that is read; a longer one breaks a calculation."""

_REWRITTEN = (
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
_SIGNS = str.maketrans({**dict.fromkeys("−‐‑–﹣－", "-"), **dict.fromkeys("×·⋅∙✕", "*"), "÷": "/", "＝": "=", "[": "(", "]": ")"})
_SPOKEN = {"plus": "+", "minus": "-", "times": "*", "x": "*", "of": "*"}
"""Words that stand for operators between two numbers; `of` behind a per cent sign alone."""
_TOKEN = re.compile(
    r"(?P<number>(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
    r"|(?P<times>[xX](?=\s*[$€£¥₹]?[0-9(.]))|(?P<word>[^\W\d_](?:\w|['’-](?=[^\W\d_]))*)|(?P<operator>[-+*/^])|(?P<open>\()|(?P<close>\))"
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

    @property
    def operand_ends(self) -> bool:
        """Whether an operand may end with it."""
        return self.kind in (NUMBER, CLOSE, PERCENT)

    @property
    def value(self) -> Fraction:
        """Of a number."""
        return Fraction(self.text.replace(",", ""))

    @property
    def decimals(self) -> int:
        """Digits of a number behind its point."""
        return len(self.text.partition(".")[2])


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
    last, waiting = -1, None
    for match in _TOKEN.finditer(text):
        name = match.lastgroup or "break"
        if name == "blank":
            continue
        kind, glued = _KINDS.get(name, OPERATOR), match.start() == last
        if kind == NUMBER and len(match[0]) > MAX_DIGITS:
            kind = BREAK
        if waiting:
            if name == "times" and not waiting.operand_ends:  # an unknown, as in `x (3 + 4)`
                kind = WORD
            yield waiting._replace(leads=glued)
        elif name == "times":
            kind = WORD
        waiting = Token(kind, "*" if name == "times" and kind == OPERATOR else match[0], glued, False)
        last = match.end()
    if waiting:
        yield waiting
