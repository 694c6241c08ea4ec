"""What can be computed of a reasoning step: is its arithmetic right, and does it start from numbers that were there?

*Correct*: every equation of the step holds, those of calculator annotations `<<48/2=24>>` (Cobbe et al. 2021) as those of its text;
and where the step gives the final answer, that is right. A step with nothing to check is neither right nor wrong.

*Logical*: every number that the step's equations start from is in the question, in an earlier step, a result within the step, or
a constant that needs no naming; in the question also in words (`half`, `dozen`). With a number n, n/100, 1 − n/100, 1 + n/100 and
100 − n are there, too: what `n%` may become. A step without an equation is neither. This is a necessary condition of sound
reasoning, not a sufficient one: it finds numbers out of nowhere, not a wrong operation on the right ones.
"""

import re
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import NamedTuple

from workflow.answers import MARKER
from workflow.arithmetic import Equation, equations, numbers
from workflow.formats.traces import Trace

ANNOTATION, ARITHMETIC, FINAL_ANSWER = "annotation", "arithmetic", "final_answer"
_ANNOTATED = re.compile(r"<<([^<>]*)>>")
_WORD = re.compile(r"[a-z]+")
_COUNTED = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
]  # fmt: skip
_NAMED = {name: Fraction(value) for value, name in enumerate(_COUNTED)} | {
    "thirty": Fraction(30), "forty": Fraction(40), "fifty": Fraction(50), "sixty": Fraction(60), "seventy": Fraction(70),
    "eighty": Fraction(80), "ninety": Fraction(90), "hundred": Fraction(100), "thousand": Fraction(1000), "dozen": Fraction(12),
    "once": Fraction(1), "twice": Fraction(2), "double": Fraction(2), "doubled": Fraction(2), "thrice": Fraction(3),
    "triple": Fraction(3), "tripled": Fraction(3), "half": Fraction(1, 2), "third": Fraction(1, 3), "thirds": Fraction(1, 3),
    "quarter": Fraction(1, 4), "quarters": Fraction(1, 4), "fourth": Fraction(1, 4), "fifth": Fraction(1, 5),
}  # fmt: skip


class Verdict(NamedTuple):
    """What is known of a step; None is nothing."""

    correct: bool | None
    how: str | None
    """What was looked at: annotation before arithmetic before final_answer."""
    logical: bool | None


class Read(NamedTuple):
    """The equations of a step."""

    annotated: list[Equation]
    written: list[Equation]
    numbers: list[Fraction]

    @property
    def equations(self) -> list[Equation]:
        """All of them."""
        return self.annotated + self.written


def read_step(text: str) -> Read:
    """The equations and numbers of a step's text."""
    annotated = [found for inside in _ANNOTATED.findall(text) for found in equations(inside)]
    visible = _ANNOTATED.sub("", text)
    return Read(annotated, equations(visible), numbers(visible))


def verdicts(trace: Trace, texts: Sequence[str], question: str, constants: Iterable[float]) -> list[Verdict]:
    """The verdict on every step of a trace.

    Args:
        trace: graded.
        texts: of its steps.
        question: of its problem.
        constants: what may be used without being named.
    """
    read = [read_step(text) for text in texts]
    final = _final_step(texts, read)
    known = Known(question, constants)
    found = []
    for number, step in enumerate(read):
        logical = known.follows(step)
        answer = (trace.strict if MARKER in texts[number] else trace.flexible) if number == final else None
        judged = [one.holds for one in step.equations] + ([] if answer is None else [answer])
        how = ANNOTATION if step.annotated else ARITHMETIC if step.written else FINAL_ANSWER
        found.append(Verdict(all(judged) if judged else None, how if judged else None, logical))
    return found


def _final_step(texts: Sequence[str], read: Sequence[Read]) -> int | None:
    """The step that gives the final answer: the last one with a marker; without one, a last step with a number and no equation."""
    if marked := [number for number, text in enumerate(texts) if MARKER in text]:
        return marked[-1]
    return len(read) - 1 if read and read[-1].numbers and not read[-1].equations else None


class Known:
    """The numbers that a step may start from, as a solution goes on."""

    def __init__(self, question: str, constants: Iterable[float]) -> None:
        self._known: set[Fraction] = {Fraction(str(value)) for value in constants}
        self._learn(numbers(question))
        self._learn(_NAMED[word] for word in _WORD.findall(question.lower()) if word in _NAMED)

    def follows(self, step: Read) -> bool | None:
        """Whether a step starts from known numbers alone; None without equations. Its own numbers are known from then on."""
        sound = True
        for equation in step.equations:
            sound = sound and all(abs(number) in self._known for number in equation.operands)
            self._learn(equation.results)
        self._learn(step.numbers)
        return sound if step.equations else None

    def _learn(self, found: Iterable[Fraction]) -> None:
        for number in map(abs, found):
            self._known |= {number, number / 100, abs(1 - number / 100), 1 + number / 100, abs(100 - number)}
