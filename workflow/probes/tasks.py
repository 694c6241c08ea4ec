"""What probes are asked: one label column each, binary, a number, or one of many classes."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from workflow.config.section import ConfigError
from workflow.frames import Table

BINARY, NUMBER, CLASSES = "binary", "number", "classes"
SAME_STEP = ("length", "first_token")
"""Labels that features of the same step have already seen: the original's tasks, told apart."""
TOKENS = ("first_token", "next_first_token")


class Task(NamedTuple):
    """One label of the steps."""

    name: str
    """Its column."""
    kind: str
    """binary, number or classes."""
    values: np.ndarray
    """[step]: float64 0, 1 or NaN; float64 or NaN; object, None where missing."""

    @property
    def known(self) -> np.ndarray:
        """[step], bool: the label is there. A missing one is never read as 0."""
        return ~pd.isna(self.values)

    @property
    def same_step(self) -> bool:
        """Whether features of the step know the answer by construction."""
        return self.name in SAME_STEP


def task(name: str, labels: Table, thresholds: Mapping[str, float]) -> Task:
    """The task of a label column: bool is binary, a number with a threshold too (true from it on), tokens and texts are classes.

    Raises:
        ConfigError: there is no such column, or a threshold of one that is no number.
    """
    if name not in labels:
        raise ConfigError(
            f"Every task of probes.fits.tasks must be a label column; got {name}. Columns there: {', '.join(labels)}. Correct the "
            "name, or add the column with probes.labels."
        )
    column = labels[name]
    if pd.api.types.is_bool_dtype(column.dtype):
        return Task(name, BINARY, _numbers(column))
    if name in TOKENS or not pd.api.types.is_numeric_dtype(column.dtype):
        if name in thresholds:
            raise ConfigError(
                f"A threshold must be of a label that is a number; {name} is none. Remove it from probes.fits.thresholds."
            )
        return Task(name, CLASSES, np.array([None if pd.isna(one) else str(one) for one in column], dtype=object))
    values = _numbers(column)
    if name not in thresholds:
        return Task(name, NUMBER, values)
    return Task(name, BINARY, np.where(np.isnan(values), np.nan, values >= thresholds[name]))


def _numbers(column: Table) -> np.ndarray:
    return column.astype("Float64").to_numpy(np.float64, na_value=np.nan)
