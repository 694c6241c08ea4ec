"""What every row is: token, place, step and role, from the traces it was read from."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from workflow.formats.rows import QUESTION, RESPONSE, SCHEMA, TEMPLATE
from workflow.formats.traces import Trace


def row_labels(traces: Sequence[Trace], max_tokens: int) -> pa.Table:
    """One row per token of every trace, in order, each text cut at `max_tokens`: all columns of a row table but `norm`."""
    lengths = [min(len(trace.token_ids), max_tokens) for trace in traces]
    places = [_places(trace, length) for trace, length in zip(traces, lengths, strict=True)]
    columns = {name: _repeated([getattr(trace, name) for trace in traces], lengths) for name in ("problem", "split", "trace")}
    for column, name in enumerate(("step", "pos", "token", "role")):
        columns[name] = pa.array(np.concatenate([place[column] for place in places]), SCHEMA.field(name).type)
    return pa.table(columns)


def _places(trace: Trace, length: int) -> tuple[np.ndarray, ...]:
    """step, pos, token and role of the first `length` tokens of a trace."""
    pos = np.arange(length)
    in_prompt = pos < trace.prompt_tokens
    step = np.where(in_prompt, -1, np.searchsorted(trace.step_ends, pos, side="right"))
    asked = (pos >= trace.question_start) & (pos < trace.question_end)
    role = np.where(in_prompt, np.where(asked, QUESTION, TEMPLATE), RESPONSE)
    return step, pos, np.asarray(trace.token_ids[:length]), role


def _repeated(names: list[str], lengths: list[int]) -> pa.DictionaryArray:
    known = {name: code for code, name in enumerate(dict.fromkeys(names))}
    codes = np.repeat([known[name] for name in names], lengths)
    return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(list(known), pa.string()))
