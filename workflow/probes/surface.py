"""What can be seen of a step without a model: its length, its place, its numbers. Nothing behind the step counts."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from workflow.answers import MARKER
from workflow.arithmetic import numbers
from workflow.formats.traces import Trace
from workflow.trace_steps import TraceStep


class Surface(NamedTuple):
    """The columns of the feature set `surface`."""

    tokens: float
    """Of the step, the end of the turn left out."""
    characters: float
    step: float
    """Number of the step, from 0; how many there will be is not told."""
    tokens_before: float
    """Of the response, in front of the step."""
    numbers: float
    digits: float
    operators: float
    equals: float
    """Counts in the text of the step."""
    marker: float
    """1 where it holds `####`."""
    question_tokens: float
    known_numbers: float
    """Numbers of the step that earlier steps hold, too."""
    previous_tokens: float
    previous_numbers: float
    previous_equals: float
    """Of the step before; 0 at the first."""


def surface(trace: Trace, steps: Sequence[TraceStep]) -> np.ndarray:
    """The columns of Surface for every step of a trace, [step, column] float32."""
    found: list[Surface] = []
    seen: set = set()
    for step in steps:
        own, text = numbers(step.text), step.text
        before = found[-1] if found else None
        found.append(
            Surface(
                tokens=step.end - step.begin,
                characters=len(text),
                step=step.number,
                tokens_before=step.begin - trace.prompt_tokens,
                numbers=len(own),
                digits=sum(map(str.isdigit, text)),
                operators=sum(text.count(sign) for sign in "+-*/×÷"),
                equals=text.count("="),
                marker=MARKER in text,
                question_tokens=trace.question_end - trace.question_start,
                known_numbers=sum(number in seen for number in own),
                previous_tokens=before.tokens if before else 0,
                previous_numbers=before.numbers if before else 0,
                previous_equals=before.equals if before else 0,
            )
        )
        seen.update(own)
    return np.array(found, np.float32).reshape(len(steps), len(Surface._fields))
