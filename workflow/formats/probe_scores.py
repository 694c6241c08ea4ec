"""scores.parquet: what probes say of reasoning steps that none of them was fitted on; what voting reads.

One row per (probe, step), columns `SCORES`, probe by probe; the rows of a probe stand together in row groups of their own, ordered
by problem, trace and step. Probes are those of binary tasks, fitted on problems of the split `train`, with settings chosen within
them. Steps are those of `val` and `test`, with and without a label.

Beside it `manifest.json` (artefact `probe_scores`): run, text, stage, rows, `digest`, and `probes`, a list of
`task`, `layer`, `features`, `model`, `family`, `validation` (see `workflow/formats/probe_columns.py`).
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from workflow.config.section import ConfigError
from workflow.formats.files import replacing
from workflow.formats.parquet import check_columns

ARTEFACT = "probe_scores"
SPLITS = ("val", "test")
PROBE = ("task", "layer", "features", "model")
"""The columns that name a probe."""
STEP = pa.schema(
    [
        ("problem", pa.string()),
        ("split", pa.string()),
        ("trace", pa.string()),
        ("sample", pa.int32()),
        ("step", pa.int32()),
        ("task", pa.string()),
        ("layer", pa.int32()),
        ("features", pa.string()),
        ("model", pa.string()),
    ]
)
"""Which step, and which probe."""
SCORES = pa.schema([*STEP, ("p", pa.float32())])
"""`layer` is null where the features are of no layer (words of a step, its length, log-probabilities, codes of step-level SAEs);
`p` is the probability that the label is true, at the share of true labels among training steps."""

FAMILIES = {
    "sae": ("sae", "base_sae", "ssae"),
    "dense": ("dense",),
    "part": ("sae_error", "sae_reconstruction"),
    "random": ("random_projection", "untrained", "frozen_decoder"),
}
"""Families of feature sets by the first word of their names; all others are `surface`."""


def family(features: str) -> str:
    """What a set is made of: `sae` codes, `dense` residual stream, `part` of it by an SAE, `random` directions, `surface`."""
    first = features.partition(".")[0]
    return next((name for name, members in FAMILIES.items() if first in members), "surface")


def write_probe_scores(path: Path | str, probes: Iterable[pa.Table]) -> int:
    """Write the rows of probes, one after the other, in one step; returns how many rows these are."""
    rows = 0
    with replacing(path) as temporary, pq.ParquetWriter(temporary, SCORES, compression="zstd") as file:
        for probe in probes:
            file.write_table(probe.cast(SCORES))
            rows += len(probe)
    return rows


def read_probe_scores(
    path: Path | str, *, task: str, features: str, model: str, layer: int | None = None, split: str | None = None
) -> pa.Table:
    """The rows of one probe, of one split or both.

    Raises:
        ConfigError: the file has other columns, or holds no such probe.
    """
    check_columns(path, SCORES)
    wanted = [("task", "==", task), ("features", "==", features), ("model", "==", model)]
    filters = [*wanted, *([("layer", "==", layer)] if layer is not None else []), *([("split", "==", split)] if split else [])]
    table = pq.read_table(path, filters=filters)
    if not len(table):
        there = "; ".join(sorted(" ".join(map(str, probe)) for probe in _probes(path)))
        raise ConfigError(
            f"{path} must hold the probe of task {task}, layer {layer}, features {features} and model {model}; it holds none. "
            f"Probes there: {there}. Name one of them."
        )
    return table


def probe_tables(path: Path | str) -> Iterator[pa.Table]:
    """Every row group of a file, in order.

    Raises:
        ConfigError: the file has other columns.
    """
    check_columns(path, SCORES)
    with pq.ParquetFile(path) as file:
        yield from (file.read_row_group(number) for number in range(file.num_row_groups))


def _probes(path: Path | str) -> set[tuple]:
    table = pq.read_table(path, columns=list(PROBE)).group_by(list(PROBE)).aggregate([])
    return {tuple(row.values()) for row in table.to_pylist()}
