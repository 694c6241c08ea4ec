"""Steps of a solution as texts: each with all that came before it."""

from collections.abc import Iterator
from typing import NamedTuple

from workflow.ssae.solutions import Solution


class TextStep(NamedTuple):
    """What the encoder of a step-level SAE reads, before it is tokenised."""

    context: str
    """Question, a blank, earlier steps."""
    text: str
    """The step itself."""
    number: int
    """Of the step in its solution, from 0; blank steps count."""


def text_steps(solution: Solution, joint: str) -> Iterator[TextStep]:
    """The steps that are not blank.

    Args:
        joint: what stands between earlier steps of the same text; earlier texts end with a blank.
    """
    before, number = solution.question, 0
    for steps in solution.parts:
        for place, step in enumerate(steps):
            if step.strip():
                yield TextStep(f"{before} {joint.join(steps[:place])}", step, number)
            number += 1
        before = f"{before} {joint.join(steps)}"
