"""Steps taken apart: where an end is cut, which tokens are found to matter, and how much is read for it; latents are rules."""

from collections.abc import Callable, Sequence

import numpy as np
from planted_patterns import ID

from workflow.n2g.contexts import Context
from workflow.n2g.step_contexts import DRAWS, LENGTHS, chosen_steps, taken_apart
from workflow.n2g.windows import Window

END, A, B, C = ID["\n"], ID["+"], ID["-"], ID["="]
PLAIN = np.arange(ID[" w0"], ID[" w39"] + 1)


class Reader:
    """A latent by rule, told without the end token; keeps what it is asked."""

    def __init__(self, rule: Callable[[Sequence[int]], float]) -> None:
        self._rule = rule
        self.asked: list[Window] = []

    def read(self, asked: Sequence[Window]) -> list[np.ndarray]:
        """Activation of each sequence."""
        self.asked += asked
        assert all(ids[-1] == END for ids in asked)
        return [np.array([self._rule(ids[:-1])], dtype=np.float32) for ids in asked]


def sequence(length: int, **placed: int) -> Window:
    """Plain words in front of the end, other tokens so many places in front of it."""
    ids = PLAIN[np.arange(length) % len(PLAIN)].tolist()
    for name, back in placed.items():
        ids[-back] = {"a": A, "b": B, "c": C}[name]
    return (*ids, END)


def context(reader: Reader, ids: Window, pool: np.ndarray = PLAIN) -> Context:
    (found,) = taken_apart(reader, {3: ids}, 0, {3: reader.read([ids])[0][0]}, keep=0.5, pool=pool, seed=0)  # type: ignore[arg-type]  # stands in for a model
    return found


def important(found: Context) -> list[int]:
    return [len(found.tokens) - at for at, share in enumerate(found.importance) if share >= 0.5]


def test_of_two_tokens_that_are_both_needed_both_matter_wherever_they_stand() -> None:
    for near, far in ((1, 2), (1, 24), (5, 13), (11, 31)):
        found = context(Reader(lambda ids: 2.0 * (A in ids and B in ids)), sequence(40, a=far, b=near))
        assert important(found) == [far, near]
        assert len(found.tokens) == min(length for length in LENGTHS if length >= far)


def test_of_two_tokens_that_each_suffice_the_later_one_is_found() -> None:
    found = context(Reader(lambda ids: 2.0 * (A in ids or B in ids)), sequence(40, a=20, b=5))
    assert important(found) == [5]
    assert len(found.tokens) == 6


def test_one_of_two_tokens_and_a_third_that_is_needed() -> None:
    found = context(Reader(lambda ids: 2.0 * (C in ids and (A in ids or B in ids))), sequence(40, a=20, b=7, c=2))
    assert important(found) == [7, 2]


def test_a_token_is_never_replaced_with_itself() -> None:
    pool = np.array([A, *PLAIN[:1].tolist()])
    assert context(Reader(lambda ids: 2.0 * (ids[-1:] == (A,))), sequence(8, a=1), pool).importance == (1.0,)


def test_tokens_that_the_first_replacement_spares_are_not_replaced_again() -> None:
    reader = Reader(lambda ids: 2.0 * (A in ids and B in ids))
    ids = sequence(40, a=24, b=2)
    found = context(reader, ids)
    masked = [one for one in reader.asked if one != ids[-len(one) :]]
    assert len(masked) == len(found.tokens) + (DRAWS - 1) * len(important(found))
    assert all(len(ids) == 25 for ids in masked)


def test_a_token_whose_first_replacement_takes_the_activation_by_chance_is_looked_at_again() -> None:
    seen: dict[int, int] = {}

    def rule(ids: Sequence[int]) -> float:
        if A not in ids:
            return 0.0
        if len(ids) != 8 or ids[-2] == C:
            return 2.0
        seen[ids[-2]] = len(seen)
        return 0.0 if seen[ids[-2]] == 0 else 2.0  # what first stands in the place of C breaks it, what stands there next does not

    found = context(Reader(rule), sequence(8, a=8, c=2))
    assert found.importance[-2] == 0.5
    assert found.spread == 1.0


def test_a_step_of_which_no_end_has_any_activation_left_gives_no_evidence() -> None:
    ids = sequence(40, a=36)
    assert taken_apart(Reader(lambda ids: 2.0 * (A in ids)), {3: ids}, 0, {3: 2.0}, keep=0.5, pool=PLAIN, seed=0) == []  # type: ignore[arg-type]  # stands in for a model


def test_half_of_the_steps_are_the_strongest_and_half_are_drawn_from_those_that_no_pattern_tells() -> None:
    strongest = [(step, 10.0 - step) for step in range(10)]
    told = np.isin(np.arange(10), [4, 5, 6, 7])
    drawn = [list(chosen_steps(strongest, told, 4, [0, latent])) for latent in range(20)]
    assert all(steps[:2] == [0, 1] and set(steps[2:]) <= {2, 3, 8, 9} and len(set(steps)) == 4 for steps in drawn)
    assert {step for steps in drawn for step in steps} == {0, 1, 2, 3, 8, 9}
    assert list(chosen_steps(strongest, np.ones(10, dtype=bool), 4, [0])) == [0, 1]
    assert chosen_steps(strongest, told, 0, [0]) == {}
