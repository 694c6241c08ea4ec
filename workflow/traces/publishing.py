"""A set of traces as its two files: the table, and the manifest that says what is in it."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workflow.answers import RULES_VERSION, Grades
from workflow.formats.files import file_digest
from workflow.formats.manifest import write_manifest
from workflow.formats.traces import Trace, write_traces


def publish_traces(traces: Sequence[Trace], path: Path | str, manifest: Path | str, **meaning: Any) -> None:
    """Write traces.parquet and its manifest.

    Args:
        meaning: what else the manifest says of the set, such as the sampling temperature.
    """
    write_traces(path, traces)
    write_manifest(manifest, "traces", **summary(traces), **meaning, digest=file_digest(path))


def summary(traces: Sequence[Trace]) -> dict[str, Any]:
    """Counts, share of finished traces and accuracy by rule; shares are over traces, each problem having equally many."""
    count = max(len(traces), 1)
    return {
        "traces": len(traces),
        "problems": len({trace.problem for trace in traces}),
        "by_split": dict(Counter(trace.split for trace in traces)),
        "by_origin": dict(Counter(trace.origin for trace in traces)),
        "prompt_tokens": sum(trace.prompt_tokens for trace in traces),
        "response_tokens": sum(len(trace.token_ids) - trace.prompt_tokens for trace in traces),
        "steps": sum(len(trace.step_ends) for trace in traces),
        "finished": sum(trace.finished for trace in traces) / count,
        "accuracy": {rule: sum(getattr(trace, rule) for trace in traces) / count for rule in Grades._fields},
        "rules_version": RULES_VERSION,
    }
