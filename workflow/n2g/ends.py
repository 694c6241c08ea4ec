"""Ends of contexts, counted in the rows of a store: patterns that might explain a latent, without a pass of the policy."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from workflow.n2g.encoding import Text
from workflow.n2g.patterns import Element, Gap, Kind, Pattern, Tokens
from workflow.n2g.vocabulary import ANY, CLASSES, Vocabulary

LAST = 6
"""Ends of up to so many tokens without a gap."""


class Place(NamedTuple):
    """A token of a form."""

    back: int
    """Tokens between it and the row, 0 for the row's own."""
    general: bool
    """Its class stands for it, where it has one."""


Form = tuple[Place, ...]
"""Which tokens of a context are looked at, from the row's own to the left."""


class End(NamedTuple):
    """What ends of one form some rows have."""

    form: int
    """Number of the form."""
    ids: np.ndarray
    """Numbers of the ends, rising."""
    seen: np.ndarray
    """Rows of the text with each."""
    among: np.ndarray
    """Of the rows asked about, those with each."""


def forms(longest: int) -> list[Form]:
    """The last tokens, literally, by their classes, and by the classes of all but the row's own; one further to the left, with the
    last one, the last two, or alone.

    Args:
        longest: tokens that an end spans at most.
    """
    found: dict[Form, None] = {}
    for size in range(1, min(LAST, longest) + 1):
        for own, others in ((False, False), (False, True), (True, True)):
            found[Place(0, own), *(Place(back, others) for back in range(1, size))] = None
    for back in range(1, longest):
        for near in (0, 1, 2):
            if back >= near:
                found[*(Place(at, False) for at in range(near)), Place(back, False)] = None
    return list(found)


class Ends:
    """The ends of every form in the kept rows of a text."""

    def __init__(self, text: Text, vocabulary: Vocabulary, longest: int) -> None:
        """`longest`: tokens that an end spans at most."""
        self._tokens, self._forms = text.tokens, forms(longest)
        self._names = list(CLASSES)
        self._general = np.arange(len(vocabulary.texts))
        for number, name in enumerate(self._names):
            self._general[vocabulary.members[name]] = len(vocabulary.texts) + number
        self._numbers, self._seen, self._first = [], [], []
        for form in self._forms:
            keys, whole = self._keys(form, text)
            rows = np.flatnonzero(whole & text.kept)
            _, first, number, seen = np.unique(keys[rows], return_index=True, return_inverse=True, return_counts=True)
            of_row = np.full(len(keys), -1, dtype=np.int32)
            of_row[rows] = number
            self._numbers.append(of_row)
            self._seen.append(seen.astype(np.int32))
            self._first.append(rows[first].astype(np.int32))

    def _keys(self, form: Form, text: Text) -> tuple[np.ndarray, np.ndarray]:
        """A number for the end of every row, equal for equal ones, and whether its text holds so many tokens."""
        keys, general = np.zeros(len(text.tokens), dtype=np.uint64), self._general[text.tokens]
        with np.errstate(over="ignore"):
            for back, by_class in form:
                tokens = (general if by_class else text.tokens)[: len(keys) - back].astype(np.uint64) + np.uint64(1)
                keys[back:] = (keys[back:] ^ tokens) * np.uint64(0x9E3779B97F4A7C15)
                keys ^= keys >> np.uint64(29)
        return keys, text.pos >= form[-1].back

    def of(self, rows: np.ndarray) -> Iterator[End]:
        """The ends that these rows have, form by form."""
        for form, (numbers, seen) in enumerate(zip(self._numbers, self._seen, strict=True)):
            mine = numbers[rows]
            ids, among = np.unique(mine[mine >= 0], return_counts=True)
            yield End(form, ids, seen[ids], among)

    def rows(self, form: int, number: int) -> np.ndarray:
        """Rows of the text with this end, rising."""
        return np.flatnonzero(self._numbers[form] == number)

    def pattern(self, form: int, number: int) -> Pattern:
        """The end as a pattern; `ANY` token at the row where the form leaves it open."""
        row, found, before = int(self._first[form][number]), list[Element](), -1
        for back, by_class in self._forms[form]:
            if before < 0 < back:
                found.append(Kind(ANY))
                before = 0
            if back - before > 1:
                found.append(Gap(back - before - 1, back - before - 1))
            found.append(self._element(int(self._tokens[row - back]), by_class))
            before = back
        return tuple(reversed(found))

    def _element(self, token: int, by_class: bool) -> Element:
        name = int(self._general[token]) - len(self._general)
        return Kind(self._names[name]) if by_class and name >= 0 else Tokens((token,))
