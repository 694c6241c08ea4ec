"""Which rows count, and to which prompt each belongs: one mask for all stages where they read the same tokens."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from workflow.config.section import ConfigError
from workflow.formats.activations import RowFilter, Store, kept_rows

SPLIT = "test"
IDENTITY = ("problem", "trace", "pos", "token")
"""What a row is: equal between stages exactly if they were fed the same tokens."""


class StageRows(NamedTuple):
    """The rows of one stage's store, in storage order."""

    prompt: np.ndarray
    """Index of each row's problem in `RowPlan.problems`, int64."""
    keep: np.ndarray
    """Whether the row counts with sinks dropped."""


class RowPlan(NamedTuple):
    """Rows of all stages."""

    problems: list[str]
    """Problems of the splits, `test` alone as a rule, sorted: the axis `prompt`, in the same order for every run."""
    stages: dict[str, StageRows]


def open_store(manifests: Sequence[Path | str], splits: Sequence[str] = (SPLIT,)) -> Store:
    """All rows of some splits of a store, sinks included."""
    return Store(manifests, keep=None, splits=splits)


def plan_rows(
    stores: Mapping[str, Sequence[Path]],
    keep: RowFilter,
    paired: bool,
    max_sink_share: float = 1.0,
    splits: Sequence[str] = (SPLIT,),
) -> RowPlan:
    """Prompt and mask of every row; only row tables are read, one stage at a time.

    Args:
        stores: shards by stage, base first.
        keep: the row filter, applied to each stage's own median.
        paired: the stages read the same tokens: their rows are checked to agree, and a row that any of them drops is dropped
            in all, so that every SAE is scored on the same rows.
        max_sink_share: share of a stage's rows that may be dropped.
        splits: whose rows.

    Raises:
        ConfigError: rows or problems differ between stages, fewer than two problems are left, or too many rows are dropped.
    """
    plan: dict[str, StageRows] = {}
    first: dict[str, Any] = {}
    problems: list[str] = []
    for stage, rows in _row_tables(stores, splits):
        named = rows["problem"].cat
        found = sorted(named.categories)
        if not first:
            first, problems = {name: rows[name] for name in IDENTITY}, found
        _check_problems(problems, found, stage)
        if paired:
            _check_paired(first, rows, stage)
        prompt = pd.Index(problems).get_indexer(named.categories)[named.codes]
        plan[stage] = StageRows(prompt.astype(np.int64), kept_rows(rows, keep)[0])
    if paired:
        union = np.logical_and.reduce([rows.keep for rows in plan.values()])
        plan = {stage: rows._replace(keep=union) for stage, rows in plan.items()}
    _check_enough(plan, keep)
    _check_sinks(plan, keep, max_sink_share)
    return RowPlan(problems, plan)


def _row_tables(stores: Mapping[str, Sequence[Path]], splits: Sequence[str]) -> Iterator[tuple[str, pd.DataFrame]]:
    for stage, manifests in stores.items():
        yield stage, open_store(manifests, splits).rows


def _check_problems(base: list[str], found: list[str], stage: str) -> None:
    if base != found:
        odd = sorted(set(base) ^ set(found))
        raise ConfigError(
            f"All stages must hold rows of the same problems; unpaired prompts between stages: {stage} and base differ in "
            f"{len(odd)}, such as {odd[0]}. Extract both stores from the same text set."
        )


def _check_paired(base: Mapping[str, Any], rows: pd.DataFrame, stage: str) -> None:
    for name, wanted in base.items():
        found: Any = rows[name]
        if len(found) != len(wanted):
            raise _unpaired(stage, f"{len(found)} rows against {len(wanted)}")
        differing = _as_in(wanted, found) != _as_in(wanted, wanted)
        if differing.any():
            row = int(np.flatnonzero(differing)[0])
            raise _unpaired(stage, f"the {name} of row {row} is {found.iloc[row]} against {wanted.iloc[row]}")


def _as_in(base: pd.Series, values: pd.Series) -> np.ndarray:
    """Values that compare: numbers as they are, names by their codes in `base`, since two stores may number them differently."""
    if not isinstance(values.dtype, pd.CategoricalDtype):
        return values.to_numpy()
    return base.cat.categories.get_indexer(values.cat.categories)[values.cat.codes]


def _unpaired(stage: str, found: str) -> ConfigError:
    return ConfigError(
        "Stages of a text set that is the same for all must have the same rows in the same order; unpaired prompts between "
        f"stages: {stage} and base differ, {found}. Extract both stores from the same traces."
    )


def _check_enough(plan: Mapping[str, StageRows], keep: RowFilter) -> None:
    for stage, rows in plan.items():
        if (left := len(np.unique(rows.prompt[rows.keep]))) < 2:
            raise ConfigError(
                f"Stages must be measured on at least 2 prompts, their spread is the uncertainty; stage {stage} has {left} with "
                f"rows that pass {keep}. Raise problems.size or problems.splits.test, or loosen the row filter."
            )


def _check_sinks(plan: Mapping[str, StageRows], keep: RowFilter, most: float) -> None:
    for stage, rows in plan.items():
        if (share := 1 - rows.keep.mean()) > most:
            raise ConfigError(
                f"At most the share drift.max_sink_share = {most:g} of a store's rows may be dropped as sinks; of stage {stage} "
                f"{share:.3f} do not pass {keep}. Look at the norms of its rows (column norm of shard_*.rows.parquet), then set "
                "activations.skip_positions and activations.max_norm_multiple, or raise the share."
            )
