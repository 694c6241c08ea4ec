"""The reasoning steps of traces: where each lies in the tokens, and its text."""

from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from workflow.config.section import ConfigError
from workflow.formats.files import file_digest
from workflow.formats.manifest import read_manifest
from workflow.formats.traces import Trace
from workflow.language_model import end_ids


class TraceStep(NamedTuple):
    """One step of a trace."""

    number: int
    """From 0."""
    begin: int
    """Its first token in the trace…"""
    end: int
    """…and the one behind its last; what ended the response is left out, unless there is nothing else."""
    tokens: int
    """All its tokens, the end of the response included."""
    text: str
    """Without special tokens."""


class StepCutter:
    """Cuts traces of one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ends = frozenset(end_ids(tokenizer, None))

    def __call__(self, trace: Trace) -> list[TraceStep]:
        """All steps of a trace, in their order."""
        found = []
        for number, (begin, behind) in enumerate(pairwise([trace.prompt_tokens, *trace.step_ends])):
            end = behind
            while end > begin and trace.token_ids[end - 1] in self._ends:
                end -= 1
            text = self._tokenizer.decode(trace.token_ids[begin:end], skip_special_tokens=True, clean_up_tokenization_spaces=False)
            found.append(TraceStep(number, begin, end if end > begin else behind, behind - begin, str(text)))
        return found


def step_keys(trace: Trace, step: TraceStep, group: str) -> dict[str, Any]:
    """The columns by which tables of steps are joined, `formats.step_labels.KEYS`."""
    return {
        "problem": trace.problem, "group": group, "split": trace.split, "trace": trace.trace, "sample": trace.sample,
        "step": step.number, "steps": len(trace.step_ends), "tokens": step.tokens,
    }  # fmt: skip


def checked_traces(traces: Path | str, manifest: Path | str) -> dict[str, Any]:
    """The manifest of a table of traces.

    Raises:
        ConfigError: the table is not the one that the manifest describes.
    """
    facts, found = read_manifest(manifest, "traces"), file_digest(traces)
    if facts["digest"] != found:
        raise ConfigError(
            f"{traces} must have the digest {facts['digest'][:12]}… that its manifest names; got {found[:12]}. Delete both and run "
            "again, they will be rebuilt."
        )
    return facts
