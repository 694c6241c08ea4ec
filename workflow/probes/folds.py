"""Folds within the training steps, by group of near-duplicate prompts, for the choice of a probe's penalty."""

import functools
from typing import NamedTuple

import numpy as np
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

from workflow.probes.tasks import BINARY, CLASSES


class NotFittedError(Exception):
    """A probe that cannot be fitted or measured, with the reason that stands in its row."""


class Fold(NamedTuple):
    """One division of the training steps; no group is on both sides."""

    fit: np.ndarray
    """Places of the steps to fit on."""
    held: np.ndarray
    """Places of the others."""


def grouped_folds(values: np.ndarray, groups: np.ndarray, kind: str, folds: int, least: int) -> list[Fold]:
    """Folds of training steps with known labels, classes spread evenly where the task is binary.

    Args:
        values: labels.
        groups: number of each step's group.
        kind: of the task.
        folds: how many.
        least: groups that each class of a binary task must be seen in.

    Raises:
        NotFittedError: too few groups, or of a class.
    """
    if len(np.unique(groups)) < max(folds, least):
        raise NotFittedError(f"labels of {len(np.unique(groups))} groups of prompts for training, fewer than {max(folds, least)}")
    if kind == BINARY:
        check_classes(values, groups, max(folds, least), "training")
    if len(np.unique(values)) < 2:
        raise NotFittedError("all labels of the training steps are equal")
    found = _divided(values.astype(np.float64).tobytes(), groups.astype(np.int64).tobytes(), kind == BINARY, folds)
    if kind == BINARY and any(len(np.unique(values[part])) < 2 for fold in found for part in fold):
        raise NotFittedError("a fold of the training steps holds one class alone")
    if kind == CLASSES and any(len(np.unique(values[fold.fit])) < 2 for fold in found):
        raise NotFittedError("without one fold the training steps hold one class alone")
    return found


@functools.lru_cache(maxsize=4)
def _divided(values: bytes, groups: bytes, stratified: bool, folds: int) -> list[Fold]:
    """Kept, because all feature sets and models of a task have the same steps, and even classes take a while."""
    labels, members = np.frombuffer(values, np.float64), np.frombuffer(groups, np.int64)
    splitter = StratifiedGroupKFold(folds) if stratified else GroupKFold(folds)
    return [Fold(*parts) for parts in splitter.split(np.zeros(len(labels)), labels, members)]


def check_classes(values: np.ndarray, groups: np.ndarray, least: int, where: str) -> None:
    """Refuse a binary task one class of which is in too few groups of prompts.

    Raises:
        NotFittedError: with the counts.
    """
    seen = {name: len(np.unique(groups[values == value])) for name, value in (("true", 1), ("false", 0))}
    if rare := [f"{count} with the label {name}" for name, count in seen.items() if count < least]:
        raise NotFittedError(f"groups of prompts for {where}: {' and '.join(rare)}, fewer than {least}")
