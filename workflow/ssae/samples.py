"""Samples of a solution as texts: each step with all that came before it."""

from collections.abc import Iterator
from typing import NamedTuple

from workflow.ssae.solutions import Solution


class TextSample(NamedTuple):
    """What the encoder of a step-level SAE reads, before it is tokenised."""

    context: str
    """Question, a blank, earlier steps."""
    step: str
    number: int
    """Of the step in its solution, from 0; blank steps count."""


def samples_of(solution: Solution, joint: str) -> Iterator[TextSample]:
    """A sample for every step that is not blank.

    Args:
        joint: what stands between earlier steps of the same text; earlier texts end with a blank.
    """
    before, number = solution.question, 0
    for steps in solution.parts:
        for place, step in enumerate(steps):
            if step.strip():
                yield TextSample(f"{before} {joint.join(steps[:place])}", step, number)
            number += 1
        before = f"{before} {joint.join(steps)}"
