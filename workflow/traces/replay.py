"""The text set `replayed`: what the first and the last stage of a run wrote, to be read by all of its policies."""

from collections.abc import Sequence
from pathlib import Path

from workflow.formats.traces import read_traces
from workflow.traces.publishing import publish_traces


def replayed_text(*, sources: Sequence[Path | str], traces: Path | str, manifest: Path | str) -> None:
    """Write the traces of several tables as one; a table given twice counts once.

    Args:
        sources: traces.parquet of the stages whose texts are replayed.

    Raises:
        ConfigError: two tables hold a trace of the same name.
    """
    once = sorted({str(path) for path in sources})
    publish_traces([trace for path in once for trace in read_traces(path)], traces, manifest)
