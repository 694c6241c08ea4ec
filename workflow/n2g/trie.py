"""The trie of Neuron2Graph as published: exact contexts read from right to left, unimportant tokens ignored.

Source: Foote, Nanda, Kran, Konstas & Barez 2023, "Neuron to Graph", and its code (apartresearch/Neuron2Graph).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from workflow.n2g.contexts import Context
from workflow.n2g.predicting import Prediction

IGNORE, END = -1, -2
"""In the place of a token that does not matter; where a node keeps the activation of the path that ends there."""

Path = tuple[tuple[int, ...], float]
"""Tokens from the row's own to the left, `IGNORE` among them, and the activation at the end."""


def paths_of(contexts: Iterable[Context], *, importance: float, activation: float, largest: float) -> list[Path]:
    """Paths of all contexts and of their variants with other tokens, those above the share `activation` of the largest one.

    The row's own token always counts; a path ends behind its last token that matters. Of equal paths the first one stays.
    """
    found: dict[tuple[int, ...], float] = {}
    for context in contexts:
        value = context.activation * context.kept
        variants = [(context.tokens, value)]
        for at, tried in context.substitutes.items():
            variants += [
                ((*context.tokens[:at], other, *context.tokens[at + 1 :]), value * share) for other, share in tried.items()
            ]
        for tokens, reached in variants:
            if reached > activation * largest:
                found.setdefault(_path(tokens, context.importance, importance), reached)
    return list(found.items())


def _path(tokens: Sequence[int], importance: Sequence[float], threshold: float) -> tuple[int, ...]:
    back = [token if share > threshold else IGNORE for token, share in zip(tokens, importance, strict=True)][::-1]
    back[0] = tokens[-1]
    while back[-1] == IGNORE:
        back.pop()
    return tuple(back)


class Trie:
    """Walks tokens from right to left, an exact child before `IGNORE`; the last end that is reached gives the activation."""

    def __init__(self, paths: Iterable[Path], *, threshold: float, strong: float) -> None:
        """
        Args:
            paths: as `paths_of` gives them.
            threshold: activation from which the latent is said to fire.
            strong: activation from which it is said to be strong.
        """
        self._root: dict[int, Any] = {}
        self._threshold, self._strong, self.reach = threshold, strong, 1
        for tokens, activation in paths:
            node = self._root
            for token in tokens:
                node = node.setdefault(token, {})
            node[END] = activation
            self.reach = max(self.reach, len(tokens))

    def predict(self, tokens: np.ndarray, pos: np.ndarray) -> Prediction:
        """What the trie says of rows that stand together by text."""
        score = np.zeros(len(tokens), dtype=np.float32)
        for row in np.flatnonzero(np.isin(tokens, list(self._root))).tolist():
            score[row] = self._walk(tokens[max(0, row - min(self.reach - 1, int(pos[row]))) : row + 1][::-1].tolist())
        return Prediction(score, score >= max(self._threshold, 1e-12), score >= max(self._strong, 1e-12))

    def _walk(self, back: Sequence[int]) -> float:
        node: Mapping[int, Any] | None = self._root
        reached = 0.0
        for token in back:
            node = node.get(token, node.get(IGNORE))
            if node is None:
                break
            reached = node.get(END, reached)
        return reached


def as_json(paths: Sequence[Path], texts: Sequence[str]) -> list[dict[str, Any]]:
    """Paths as patterns of single tokens and gaps of one, from left to right, as `formats.n2g` describes them."""
    return [
        {
            "elements": [
                {"gap": [1, 1]} if token == IGNORE else {"ids": [token], "texts": [texts[token]]} for token in reversed(tokens)
            ],
            "activation": activation,
        }
        for tokens, activation in paths
    ]


def from_json(patterns: Sequence[Mapping[str, Any]]) -> list[Path]:
    """The paths that `as_json` wrote."""
    return [
        (tuple(IGNORE if "gap" in one else one["ids"][0] for one in reversed(pattern["elements"])), pattern["activation"])
        for pattern in patterns
    ]
