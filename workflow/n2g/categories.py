"""What the patterns of a latent are about, by rule."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from workflow.n2g.vocabulary import ANY, CLASSES, NUMBER, OPERATOR

ANSWER = re.compile(r"\s*(?:#{2,}|answer|Answer|boxed|\\boxed)\s*")
SPECIAL = re.compile(r"<[|/]?\w+[|]?>")
MOST_SHARE = 0.6
"""A category holds when so large a share of the evidence is of it."""


def category(patterns: Iterable[Mapping[str, Any]]) -> str:
    """`number`, `operator`, `answer`, `newline`, `template`, `word`, `mixed`, or `none` where there is no pattern.

    Each pattern counts by what it ends in, as often as it matches; one that ends in any token by what is in front.
    """
    found: Counter[str] = Counter()
    for pattern in patterns:
        told = [element for element in pattern["elements"] if "gap" not in element and element.get("class") != ANY]
        if told:
            found[_of(told[-1])] += pattern.get("matched", 1)
    if not found:
        return "none"
    name, count = min(found.items(), key=lambda each: (-each[1], each[0]))
    return name if count >= MOST_SHARE * found.total() else "mixed"


def _of(element: Mapping[str, Any]) -> str:
    if name := element.get("class"):
        return {NUMBER: "number", OPERATOR: "operator"}[name]
    kinds = {_of_text(text) for text in element["texts"]}
    return kinds.pop() if len(kinds) == 1 else "mixed"


def _of_text(text: str) -> str:
    if SPECIAL.fullmatch(text):
        return "template"
    if "\n" in text:
        return "newline"
    for name, said in ((NUMBER, "number"), (OPERATOR, "operator")):
        if CLASSES[name].fullmatch(text):
            return said
    return "answer" if ANSWER.fullmatch(text) else "word"
