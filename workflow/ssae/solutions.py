"""Solutions read from JSON Lines, one line at a time: `TextSource(path, rules).solutions()`.

A line that is no solution is an error, or left out and counted by reason, as `rules.on_bad_line` says. Empty lines are passed over.
"""

import json
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from workflow.config.section import ConfigError
from workflow.formats.problems import problem_id
from workflow.ssae.forms import TEXT_FORMS, StepRules

log = logging.getLogger(__name__)
SHOWN = 3
"""Left-out lines that the log shows; the rest is counted."""


class Solution(NamedTuple):
    """A question with its solution in steps."""

    problem: str
    """As in problems.parquet, so the same question has the same id here and there."""
    line: int
    """From 1."""
    question: str
    parts: list[list[str]]
    """Steps of each text of the solution; all formats but numina have one text."""


class NoSolutionError(ValueError):
    """A line that holds no solution."""

    def __init__(self, reason: str, found: str) -> None:
        super().__init__(found)
        self.reason = reason


class TextSource:
    """A file of JSON Lines in one of the formats of texts."""

    def __init__(self, path: Path | str, rules: StepRules) -> None:
        """The file is opened by `solutions` alone."""
        self.path = Path(path)
        self.skipped: Counter[str] = Counter()
        """Left-out lines by reason, of the last pass."""
        self._rules, self._form, self._cut = rules, TEXT_FORMS[rules.format], rules.cut()

    def solutions(self) -> Iterator[Solution]:
        """The solutions in the order of the file.

        Raises:
            ConfigError: the file is missing, or a line is bad and `on_bad_line` is error.
        """
        if not self.path.is_file():
            raise ConfigError(f"ssae.data must name files that exist; there is none at {self.path}. Correct the path.")
        self.skipped.clear()
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    try:
                        yield self._solution(line, number)
                    except NoSolutionError as fault:
                        self._refuse(fault, number)

    def _solution(self, line: bytes, number: int) -> Solution:
        row = _row(line)
        question, answer = (self._field(row, name) for name in (self._form.question, self._form.answer))
        texts = answer if self._form.several else [answer]
        if not isinstance(question, str):
            raise NoSolutionError("wrong_type", f"has {_kind(question)} as `{self._form.question}`")
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise NoSolutionError("wrong_type", f"has {_kind(answer)} as `{self._form.answer}`")
        if not question.strip():
            raise NoSolutionError("empty_question", f"has an empty `{self._form.question}`")
        parts = [self._cut(text) for text in texts]
        if not any(step.strip() for steps in parts for step in steps):
            raise NoSolutionError("no_step", f"has no step in `{self._form.answer}`")
        try:
            "".join([question, *texts]).encode()
        except UnicodeEncodeError:
            raise NoSolutionError("not_unicode", "has an escape that is half a character") from None
        return Solution(problem_id(question.strip()), number, question, parts)

    def _field(self, row: dict[str, Any], name: str) -> Any:
        if name not in row:
            raise NoSolutionError("field_missing", f"lacks `{name}` among {', '.join(row) or 'no fields'}")
        return row[name]

    def _refuse(self, fault: NoSolutionError, number: int) -> None:
        where = f"line {number} of {self.path} {fault}"
        if self._rules.on_bad_line == "error":
            wanted = "a list of texts" if self._form.several else "a text"
            raise ConfigError(
                f"Every line of a file of the format {self._rules.format} must be a JSON object with a question in "
                f"`{self._form.question}` and its solution, {wanted}, in `{self._form.answer}`; {where}. Correct it, choose "
                "another ssae.data.format, or set ssae.data.on_bad_line: skip to leave such lines out."
            )
        self.skipped[fault.reason] += 1
        if self.skipped.total() <= SHOWN:
            log.warning("left out: %s", where)


def _row(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.decode().rstrip())
    except UnicodeDecodeError as error:
        raise NoSolutionError("not_unicode", f"is no UTF-8 at byte {error.start + 1}") from None
    except (json.JSONDecodeError, RecursionError) as error:
        told = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else "it is nested too deeply"
        raise NoSolutionError("not_json", f"is no JSON: {told}") from None
    if not isinstance(row, dict):
        raise NoSolutionError("not_object", f"is {_kind(row)}")
    return row


def _kind(value: Any) -> str:
    match value:
        case None | bool():
            return "null, true or false"
        case str():
            return "a text"
        case list():
            return "a list" if all(isinstance(entry, str) for entry in value) else "a list with other things than texts"
        case dict():
            return "an object"
    return "a number"
