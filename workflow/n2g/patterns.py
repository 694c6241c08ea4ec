"""Token patterns: what they are made of, where they match, what they cost to write down.

A pattern is read from left to right and ends at the row that it says a latent fires on.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from workflow.n2g.vocabulary import ANY, Vocabulary


class Tokens(NamedTuple):
    """One of some tokens."""

    ids: tuple[int, ...]


class Kind(NamedTuple):
    """Any token of a class, such as `NUM`."""

    name: str


class Gap(NamedTuple):
    """Any tokens, so many of them."""

    least: int
    most: int


Element = Tokens | Kind | Gap
Pattern = tuple[Element, ...]


def matches(pattern: Pattern, tokens: np.ndarray, pos: np.ndarray, members: Mapping[str, np.ndarray]) -> np.ndarray:
    """Rows on which a pattern ends: bool [row].

    Args:
        pattern: elements from left to right; the first and the last are no gaps.
        tokens: of rows that stand together by text.
        pos: place of each in its text; a match never begins before its text.
        members: bool [token] by class.
    """
    reached: np.ndarray | None = None
    least = most = 0
    for element in pattern:
        if isinstance(element, Gap):
            least, most = element
            continue
        here = members[element.name][tokens] if isinstance(element, Kind) else one_of(tokens, element.ids)
        if reached is not None:
            before = np.zeros_like(here)
            for back in range(least + 1, min(most + 2, len(tokens))):
                before[back:] |= reached[: len(reached) - back] & (pos[back:] >= back)
            here &= before
        reached, least, most = here, 0, 0
    assert reached is not None
    return reached


def one_of(tokens: np.ndarray, ids: Sequence[int]) -> np.ndarray:
    """Rows whose token is one of these."""
    found = tokens == ids[0]
    for other in ids[1:]:
        found |= tokens == other
    return found


def span(pattern: Pattern) -> int:
    """Tokens of the longest match."""
    return sum(element.most if isinstance(element, Gap) else 1 for element in pattern)


class Costs:
    """Bits to write a pattern down, by how frequent its tokens are in the text that it is about."""

    def __init__(self, tokens: np.ndarray, vocabulary: Vocabulary, max_gap: int) -> None:
        counts = np.bincount(tokens, minlength=len(vocabulary.texts)).astype(np.float64)
        self._bits = -np.log2((counts + 0.5) / (counts.sum() + 0.5 * len(counts)))
        self._classes = {name: -math.log2((counts[of].sum() + 0.5) / (counts.sum() + 1)) for name, of in vocabulary.members.items()}
        self._gap = math.log2(max_gap + 2)

    def of(self, pattern: Pattern) -> float:
        """Bits of one pattern: each element says what it is (2) and which, and the pattern that it ends (1)."""
        return 1.0 + sum(2.0 + self._of(element) for element in pattern)

    def more(self, pattern: Pattern) -> float:
        """Bits of the tokens of a pattern beyond the first of each place."""
        return sum(float(self._bits[list(element.ids[1:])].sum()) for element in pattern if isinstance(element, Tokens))

    def _of(self, element: Element) -> float:
        if isinstance(element, Gap):
            return self._gap
        return self._classes[element.name] if isinstance(element, Kind) else float(self._bits[list(element.ids)].sum())


def as_json(pattern: Pattern, vocabulary: Vocabulary) -> list[dict[str, Any]]:
    """Elements with texts: {ids, texts}, {class} or {gap: [least, most]}."""
    return [
        {"gap": list(element)} if isinstance(element, Gap)
        else {"class": element.name} if isinstance(element, Kind)
        else {"ids": list(element.ids), "texts": [vocabulary.texts[token] for token in element.ids]}
        for element in pattern
    ]  # fmt: skip


def from_json(elements: Sequence[Mapping[str, Any]]) -> Pattern:
    """The pattern that `as_json` wrote."""
    return tuple(
        Gap(*element["gap"]) if "gap" in element
        else Kind(element["class"]) if "class" in element
        else Tokens(tuple(element["ids"]))
        for element in elements
    )  # fmt: skip


def shown(elements: Sequence[Mapping[str, Any]]) -> str:
    """A pattern in one line, such as `<NUM> *{0,4} ' +'`."""
    return " ".join(map(shown_element, elements))


def shown_element(element: Mapping[str, Any]) -> str:
    """One element as text."""
    if "gap" in element:
        least, most = element["gap"]
        return f"*{{{least},{most}}}" if least != most else f"*{{{least}}}"
    if "class" in element:
        return "*" if element["class"] == ANY else f"<{element['class']}>"
    return "|".join(repr(text) for text in element["texts"])
