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


class OfForm(NamedTuple):
    """The ends of one form in the kept rows of a text."""

    rows: np.ndarray
    """Kept rows whose text holds so many tokens, rising."""
    number: np.ndarray
    """Of the end of each, equal for equal ones, from 0 on."""
    first: np.ndarray
    """A row with each end, by its number."""


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


class EndReader:
    """Reads ends off the rows of a text."""

    def __init__(self, text: Text, vocabulary: Vocabulary) -> None:
        self._text, self._names = text, list(CLASSES)
        self._general = np.arange(len(vocabulary.texts))
        for number, name in enumerate(self._names):
            self._general[vocabulary.members[name]] = len(vocabulary.texts) + number

    def ends(self, form: Form) -> OfForm:
        """Those of one form."""
        tokens = self._text.tokens
        keys, general = np.zeros(len(tokens), dtype=np.uint64), self._general[tokens]
        with np.errstate(over="ignore"):
            for back, by_class in form:
                here = (general if by_class else tokens)[: max(0, len(keys) - back)].astype(np.uint64) + np.uint64(1)
                keys[back:] = (keys[back:] ^ here) * np.uint64(0x9E3779B97F4A7C15)
                keys ^= keys >> np.uint64(29)
        rows = np.flatnonzero((self._text.pos >= form[-1].back) & self._text.kept)
        _, first, number = np.unique(keys[rows], return_index=True, return_inverse=True)
        return OfForm(rows, number, rows[first])

    def pattern(self, form: Form, row: int) -> Pattern:
        """The end at a row; `ANY` token at the row itself where the form leaves it open."""
        found, before = list[Element](), -1
        for back, by_class in form:
            if before < 0 < back:
                found.append(Kind(ANY))
                before = 0
            if back - before > 1:
                found.append(Gap(back - before - 1, back - before - 1))
            found.append(self._element(int(self._text.tokens[row - back]), by_class))
            before = back
        return tuple(reversed(found))

    def _element(self, token: int, by_class: bool) -> Element:
        name = int(self._general[token]) - len(self._general)
        return Kind(self._names[name]) if by_class and name >= 0 else Tokens((token,))


class Ends:
    """The ends of every form in the kept rows of a text."""

    def __init__(self, text: Text, vocabulary: Vocabulary, longest: int) -> None:
        """`longest`: tokens that an end spans at most."""
        self._reader, self._forms = EndReader(text, vocabulary), forms(longest)
        self._numbers, self._seen, self._first = [], [], []
        for form in self._forms:
            rows, number, first = self._reader.ends(form)
            of_row = np.full(len(text.tokens), -1, dtype=np.int32)
            of_row[rows] = number
            self._numbers.append(of_row)
            self._seen.append(np.bincount(number, minlength=len(first)).astype(np.int32))
            self._first.append(first.astype(np.int32))

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
        """The end as a pattern."""
        return self._reader.pattern(self._forms[form], int(self._first[form][number]))
