"""The steps of one set of traces as probes see them: labels and keys in one order, refused where a prompt could leak."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from workflow.config.section import ConfigError
from workflow.formats.step_features import StepFeatures
from workflow.formats.step_labels import read_step_labels
from workflow.frames import Table

ORDER = ["problem", "trace", "step"]
TRAIN, VAL, TEST = "train", "val", "test"


class Steps(NamedTuple):
    """Steps ordered by problem, trace and step, so that nothing depends on the order of a file."""

    table: Table
    """Keys, text and labels; its index is the place of a step in the files."""

    @property
    def places(self) -> np.ndarray:
        """Rows of the files in this order."""
        return self.table.index.to_numpy()

    @property
    def groups(self) -> np.ndarray:
        """Number of each step's group of near-duplicate prompts."""
        return np.unique(self.group_names, return_inverse=True)[1]

    @property
    def group_names(self) -> np.ndarray:
        """Each step's group."""
        return self.table["group"].to_numpy(str)

    def rows(self, split: str) -> np.ndarray:
        """Places of a split's steps in this order."""
        return np.flatnonzero(self.table["split"].to_numpy(str) == split)


def read_steps(labels: Path | str) -> Steps:
    """The steps of a labels.parquet.

    Raises:
        ConfigError: as `checked`.
    """
    return checked(read_step_labels(labels))


def checked(table: Table) -> Steps:
    """Steps in their order.

    Raises:
        ConfigError: a problem, group or trace stands in two splits, a problem in two groups, or a step twice.
    """
    for name in ("problem", "group", "trace"):
        _only_one(table, name, "split", "whatever a probe learns of it in one split is known in the other")
    _only_one(table, "problem", "group", "near-duplicates must be told by one name")
    if (twice := table.duplicated(["trace", "step"])).any():
        trace, step = table.loc[twice, ["trace", "step"]].iloc[0]
        raise ConfigError(
            f"A step must stand once in a table of labels; step {step} of trace {trace} stands twice. Drop one of them."
        )
    return Steps(table.reset_index(drop=True).sort_values(ORDER, kind="stable"))


def check_same_steps(features: StepFeatures, labels: Table) -> None:
    """Refuse features of other steps than the labels.

    Raises:
        ConfigError: the files name other steps, or the same ones in another order.
    """
    keys, own = features.steps, labels.sort_index()
    same = len(keys) == len(own) and all((keys[name].to_numpy() == own[name].to_numpy()).all() for name in ("trace", "step"))
    if not same:
        raise ConfigError(
            f"{features.path} must hold the steps of the labels in their order; it holds {len(keys)} steps for {len(own)} labels, "
            "or others. Delete it and run again, it will be rebuilt."
        )


def _only_one(table: Table, name: str, other: str, why: str) -> None:
    pairs = table[[name, other]].drop_duplicates()
    if (several := pairs.duplicated(name)).any():
        found = str(pairs.loc[several, name].iloc[0])
        among: Sequence[str] = sorted(map(str, pairs.loc[pairs[name] == found, other]))
        raise ConfigError(
            f"Every {name} must have one {other}: {why}; {name} {found} has {', '.join(among)}. Make the traces again from one "
            "problems.parquet, or put its steps into one."
        )
