"""Pieces of a step cache while it is made: `000000.npz` with every dataset of steps.h5 and `000000.json`, which ends it."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from workflow.formats.files import replacing, write_json
from workflow.formats.steps import SOLUTION_COLUMNS, STEP_COLUMNS
from workflow.ssae.encoding import Encoded, Span

SUMMED = ("blank_steps", "cut_contexts", "cut_steps")
"""What every solution counts."""


def keep(held: Sequence[Encoded], path: Path) -> None:
    """Write one piece in the columns of the format, and then what it counts, which says that it is whole."""
    starts = np.cumsum([0, *(len(one.tokens) for one in held)])
    spans = [(span, index) for index, one in enumerate(held) for span in one.spans]
    starts_of = {"context_start", "step_start"}
    columns = {
        name: [getattr(span, name) + (starts[index] if name in starts_of else 0) for span, index in spans] for name in Span._fields
    } | {"solution": [index for _, index in spans]}
    arrays = {f"steps/{name}": np.array(columns[name], dtype=kind) for name, kind in STEP_COLUMNS.items()}
    for name, kind in SOLUTION_COLUMNS.items():
        values = [getattr(one, name) for one in held]
        arrays[f"solutions/{name}"] = np.array([v.encode() if isinstance(v, str) else v for v in values], dtype=kind)
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, allow_pickle=False, tokens=np.concatenate([one.tokens for one in held]), **arrays)
    sums = {name: sum(getattr(one, name) for one in held) for name in SUMMED}
    write_json(path.with_suffix(".json"), {"line": held[-1].line, "solutions": len(held), "steps": len(spans), **sums})


def finished(scratch: Path) -> list[dict[str, int]]:
    """What the whole pieces say, in their order; a piece that says nothing is made again."""
    return [json.loads(path.read_text()) for path in sorted(scratch.glob("*.json"))]


def counted(scratch: Path) -> dict[str, int]:
    """The sums of what the pieces count."""
    pieces = finished(scratch)
    return {name: sum(piece[name] for piece in pieces) for name in ("solutions", "steps", *SUMMED)}
