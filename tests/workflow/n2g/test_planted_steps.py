"""Patterns planted in reasoning steps are recovered, also where runs of tokens cannot tell them; the reader is made by hand."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from planted_patterns import DIGITS, ID, VOCABULARY, WORDS

from workflow.config.n2g import StepN2gConfig
from workflow.n2g.ends import forms
from workflow.n2g.patterns import Costs
from workflow.n2g.saving import ENDS, Saving
from workflow.n2g.step_methods import Latent, mine_patterns
from workflow.n2g.step_patterns import StepChooser, flattened
from workflow.n2g.windows import Window

SEPARATOR, END = ID["####"], ID["\n"]
Rule = Callable[[Window], float]


def difference_rule(ids: Window) -> float:
    """Fires on steps with `-` three tokens in front of `=`: a number of two digits between them."""
    return 3.0 if any(ids[at] == ID["="] and ids[at - 3] == ID["-"] for at in range(3, len(ids))) else 0.0


def run_rule(ids: Window) -> float:
    """Fires on steps with ` cat` in front of ` sat`."""
    return 2.0 if any(ids[at : at + 2] == (ID[" cat"], ID[" sat"]) for at in range(len(ids))) else 0.0


def random_rule(ids: Window) -> float:
    """Fires on one step in ten, whatever stands there."""
    return 1.0 if np.random.default_rng(np.asarray(ids).astype(np.uint32)).random() < 0.1 else 0.0


RULES: list[Rule] = [difference_rule, run_rule, random_rule]


class Steps:
    """Steps in the place of a part of a store."""

    def __init__(self, count: int, seed: int) -> None:
        draw = np.random.default_rng(seed)
        self._steps = [_step(draw) for _ in range(count)]
        self.codes = np.array([[rule(self.sequence(step)) for rule in RULES] for step in range(count)], dtype=np.float32)

    def __len__(self) -> int:
        return len(self._steps)

    def sequence(self, step: int) -> Window:
        """Context, separator, step and end."""
        return (0, SEPARATOR, *self._steps[step], END)

    def starts(self) -> np.ndarray:
        """Place of the first token of each step."""
        return np.full(len(self), 2)


def _step(draw: np.random.Generator) -> list[int]:
    ids: list[int] = []
    while len(ids) < 10:
        if draw.random() < 0.25:
            left, right = ([int(one) for one in draw.choice(sorted(DIGITS), size=draw.integers(1, 3))] for _ in range(2))
            ids += [*left, ID["+" if draw.random() < 0.6 else "-"], *right, ID["="]]
        elif draw.random() < 0.15:
            ids += [ID[" cat"], ID[" sat" if draw.random() < 0.5 else " dog"]]
        else:
            ids.append(int(draw.integers(ID[" the"], len(WORDS))))
    return ids


class Reader:
    """In the place of a `StepReader`: rules for latents."""

    def __init__(self) -> None:
        self.tokens = 0

    def read(self, asked: Sequence[Window]) -> list[np.ndarray]:
        """Activations [latent] of each sequence."""
        self.tokens += sum(map(len, asked))
        return [np.array([rule(ids) for rule in RULES], dtype=np.float32) for ids in asked]

    def forget(self) -> None:
        """Nothing is kept."""


MINED, HELD_OUT = Steps(400, 0), Steps(300, 1)


def mine(reader: Reader, firings: int) -> tuple[list[Latent], list[dict[str, Any]]]:
    tokenizer = None
    given: list[Any] = [reader, np.array([5, 2, 9]), MINED.codes, HELD_OUT.codes > 0, MINED, HELD_OUT, tokenizer, VOCABULARY]
    return mine_patterns(*given, StepN2gConfig(latents=3, firings=firings), 0)


@pytest.fixture(scope="module")
def explained() -> list[Latent]:
    found, lines = mine(Reader(), StepN2gConfig().firings)
    assert [line["latent_idx"] for line in lines] == [5, 2, 9]
    return found


def f1(said: np.ndarray | None, latent: int) -> float:
    active = HELD_OUT.codes[:, latent] > 0
    assert said is not None
    return 2 * float((said & active).sum()) / float(said.sum() + active.sum())


def test_a_gap_is_found_that_runs_of_tokens_cannot_tell(explained: list[Latent]) -> None:
    assert f1(explained[0].said, 0) >= 0.95
    ids = {token for one in explained[0].patterns for element in one["elements"] for token in element.get("ids", [])}
    assert ID["-"] in ids
    assert ID["+"] not in ids
    assert f1(explained[0].by_ngrams, 0) < 0.95


def test_a_run_of_tokens_is_found_by_patterns_and_by_the_baseline_of_runs_not_by_single_tokens(explained: list[Latent]) -> None:
    assert f1(explained[1].said, 1) == f1(explained[1].by_ngrams, 1) == 1.0
    assert f1(explained[1].by_tokens, 1) < 0.95


def test_a_latent_that_fires_at_random_is_not_explained(explained: list[Latent]) -> None:
    base = float((HELD_OUT.codes[:, 2] > 0).mean())
    assert f1(explained[2].said, 2) <= 2 * base / (1 + base) + 0.1


def test_counted_ends_alone_find_what_is_planted_and_read_nothing() -> None:
    reader = Reader()
    found, _ = mine(reader, firings=0)
    assert reader.tokens == 0
    assert f1(found[0].said, 0) >= 0.95
    assert f1(found[1].said, 1) == 1.0


def test_likely_ends_are_those_that_save_most_bits_on_the_steps_they_match() -> None:
    steps = flattened([MINED.sequence(step) for step in range(len(MINED))], MINED.starts())
    chooser, active = StepChooser(steps, VOCABULARY), MINED.codes > 0
    saving = Saving(len(MINED), Costs(steps.text.tokens, VOCABULARY, 4))
    for found, mine in zip(chooser.likely_ends(forms(8), active), active.T, strict=True):
        matched = [chooser.matched(pattern) for pattern in found]
        fired, sizes = (np.array(one) for one in ([mine[of].sum() for of in matched], [len(of) for of in matched]))
        saved = saving.alone(fired, sizes, mine)
        assert len(found) <= ENDS
        assert (saved > 0).all()
        assert (np.diff(saved) <= 1e-9).all()
