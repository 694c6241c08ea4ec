"""Texts with a planted pattern, and a reader of windows that is made by hand: latents are rules over token ids, no model runs."""

from collections.abc import Callable, Sequence

import numpy as np

from workflow.n2g.encoding import Firings, Text
from workflow.n2g.vocabulary import Vocabulary
from workflow.n2g.windows import Asked, Window

WORDS = [
    "<s>",
    *"0123456789",
    "+",
    "-",
    "=",
    " a",
    " b",
    " cat",
    " dog",
    " the",
    " sat",
    "\n",
    "####",
    *(f" w{n}" for n in range(40)),
]
VOCABULARY = Vocabulary(WORDS)
ID = {word: at for at, word in enumerate(WORDS)}
DIGITS = frozenset(range(1, 11))
Rule = Callable[[Window], float]
"""Activation at the last token of a window."""


def sum_rule(ids: Window) -> float:
    """Fires on `=` where `+` stands two or three tokens before, and a digit in front of that."""
    if ids[-1] != ID["="]:
        return 0.0
    return 4.0 if any(len(ids) > back + 1 and ids[-1 - back] == ID["+"] and ids[-2 - back] in DIGITS for back in (2, 3)) else 0.0


def random_rule(ids: Window) -> float:
    """Fires on one row in twenty, whatever stands there; not among the first, which many texts have in common."""
    draw = np.random.default_rng(np.abs(np.asarray(ids)).astype(np.uint32)).random()
    return 1.0 if len(ids) > 3 and draw < 0.05 else 0.0


def silent_rule(ids: Window) -> float:
    """Never fires."""
    return 0.0


def texts(count: int, seed: int, length: int = 30) -> Text:
    """Random words with sums and differences of one- and two-digit numbers among them."""
    draw, tokens, pos = np.random.default_rng(seed), list[int](), list[int]()
    for _ in range(count):
        ids = [0]
        while len(ids) < length:
            if draw.random() < 0.3:
                numbers = [[int(one) for one in draw.integers(1, 11, size=draw.integers(1, 3))] for _ in range(2)]
                ids += [*numbers[0], ID["+" if draw.random() < 0.5 else "-"], *numbers[1], ID["="]]
            else:
                ids.append(int(draw.integers(14, len(WORDS))))
        tokens += ids[:length]
        pos += range(length)
    place = np.array(pos, dtype=np.int64)
    return Text(np.array(tokens, dtype=np.int64), place, place > 0)


def window_of(text: Text, row: int) -> Window:
    """A row with all of its text in front."""
    return tuple(text.tokens[row - text.pos[row] : row + 1].tolist())


def activations(text: Text, rule: Rule) -> np.ndarray:
    """Of every kept row."""
    return np.array([rule(window_of(text, row)) if text.kept[row] else 0.0 for row in range(len(text.pos))], dtype=np.float32)


def firings(text: Text, rule: Rule) -> Firings:
    """Where a rule fires."""
    values = activations(text, rule)
    rows = np.flatnonzero(values)
    top = rows[np.argsort(-values[rows], kind="stable")][:8]
    return Firings(rows, values[rows], top, values[top], float(values.max()), len(rows))


class HandMadeReader:
    """In the place of a `WindowReader`: rules for latents; counts the tokens it is asked about."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules
        self.tokens = 0

    def read(self, asked: Sequence[Asked]) -> list[np.ndarray]:
        """Activations [place, latent] of each window."""
        self.tokens += sum(len(one.ids) for one in asked)
        return [
            np.array([[rule(one.ids[: at + 1]) for rule in self._rules] for at in one.places], dtype=np.float32) for one in asked
        ]


def no_suggestion(asked: Sequence[tuple[Window, int]], count: int) -> list[list[int]]:
    """No other tokens but those of classes."""
    return [[] for _ in asked]
