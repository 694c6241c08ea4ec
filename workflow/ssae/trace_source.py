"""Steps of this pipeline's traces, token by token as they were written: `TraceSource(path, tokenizer, rules).encoded()`.

The context of a step is the ids from the first token of the question up to the step: question, what the prompt's template puts
behind it, earlier steps. What stands before the question is the same for all problems and left out. The tokens that end a response
are no part of its last step, since every sequence ends with the end token.

A policy may write nothing: a trace without a step is left out and counted, whatever the text set.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from workflow.config.section import ConfigError
from workflow.formats.traces import Trace, stream_traces
from workflow.ssae.encoding import Encoded, Span
from workflow.ssae.forms import StepRules
from workflow.step_tokens import StepTokenizer

log = logging.getLogger(__name__)


class TraceSource:
    """A traces.parquet whose policy has the base model's tokenizer."""

    def __init__(self, path: Path | str, tokenizer: StepTokenizer, rules: StepRules) -> None:
        """The file is opened by `encoded` alone."""
        self.path = Path(path)
        self.skipped: Counter[str] = Counter()
        """Left-out traces by reason, of the last pass."""
        self._tokenizer, self._rules = tokenizer, rules

    def encoded(self, after: int = -1) -> Iterator[Encoded]:
        """The traces in the order of the file, those up to row `after` left out.

        Raises:
            ConfigError: a trace holds tokens of another tokenizer, and `on_bad_line` is error.
        """
        self.skipped.clear()
        for row, trace in enumerate(stream_traces(self.path)):
            steps = self._steps(trace)
            if max(trace.token_ids) >= self._tokenizer.separator:
                self._refuse(trace)
                self._leave_out("foreign_token", trace)
            elif not steps:
                self._leave_out("no_step", trace)
            elif row > after:
                yield self._encoded(trace, row, steps)

    def _steps(self, trace: Trace) -> list[tuple[int, int, int]]:
        """Number, first token and the token behind the last one of every step that holds text."""
        found = []
        for number, (begin, end) in enumerate(pairwise([trace.prompt_tokens, *trace.step_ends])):
            while end > begin and trace.token_ids[end - 1] in self._tokenizer.ends:
                end -= 1
            if self._text(trace.token_ids[begin:end]).strip():
                found.append((number, begin, end))
        return found

    def _text(self, ids: list[int]) -> str:
        return self._tokenizer.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _encoded(self, trace: Trace, row: int, steps: list[tuple[int, int, int]]) -> Encoded:
        limits = self._rules.limits
        room = limits.context - len(self._tokenizer.prefix)
        first = trace.question_start
        spans: list[Span] = []
        cut_contexts = cut_steps = 0
        for number, begin, end in steps:
            context, step = min(begin - first, room), min(end - begin, limits.step)
            cut_contexts += context < begin - first
            cut_steps += step < end - begin
            start = 0 if limits.keep == "first" else begin - first - context
            spans.append(Span(number, start, context, begin - first, step))
        return Encoded(
            trace.problem, row, trace.split, trace.trace, int(trace.strict), int(trace.flexible),
            np.array(trace.token_ids[first:], dtype=np.int32), spans, len(trace.step_ends) - len(spans), cut_contexts, cut_steps,
        )  # fmt: skip

    def _refuse(self, trace: Trace) -> None:
        if self._rules.on_bad_line == "error":
            raise ConfigError(
                f"Every trace must hold tokens of the base model's tokenizer; trace {trace.trace} of {self.path} has token "
                f"{max(trace.token_ids)}, of a tokenizer with {self._tokenizer.separator} entries. Choose the base model of the "
                "policy that wrote it, or set ssae.data.on_bad_line: skip to leave such traces out."
            )

    def _leave_out(self, reason: str, trace: Trace) -> None:
        self.skipped[reason] += 1
        if self.skipped[reason] == 1:
            log.warning("left out (%s): trace %s of %s; all are counted in the manifest", reason, trace.trace, self.path)
