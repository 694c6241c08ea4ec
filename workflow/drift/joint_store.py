"""The paired rows of all stages side by side, read from their stores piece by piece."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from workflow.config.section import ConfigError
from workflow.formats.activations import Piece, RowFilter, Store, chosen_pieces
from workflow.formats.masks import open_store, plan_rows

SPLITS = ("val", "test")
"""Splits of the part `heldout`, the one that every stage has."""


class JointStore(Store):
    """Some rows of several stages, one after the other along the columns, base first; read like the store of one stage."""

    def __init__(self, stores: Sequence[Store], chosen: np.ndarray) -> None:  # the stores opened their shards
        """Join stores of the same rows.

        Args:
            stores: of every stage, all of their rows opened.
            chosen: bool [row]: which rows to read.

        Raises:
            ConfigError: the stores are cut into other shards or chunks, or no row is chosen.
        """
        first = stores[0]
        for store in stores[1:]:
            if [_place(piece) for piece in store.pieces] != [_place(piece) for piece in first.pieces]:
                raise ConfigError(
                    "Stores that are read side by side must be cut into the same shards and chunks; those of two stages are not. "
                    "Extract all stages with one setting of activations.shards and activations.chunk_rows."
                )
        if not chosen.any():
            raise ConfigError("Rows read side by side must be at least one; none is left. Loosen the row filter.")
        self.stores = list(stores)
        self.manifests = first.manifests
        self.layer, self.hook_point = first.layer, first.hook_point
        self.width: int = first.d_model
        self.d_model: int = sum(store.d_model for store in stores)
        self.rows = first.rows.loc[chosen].reset_index(drop=True)
        self.pieces: list[Piece] = list(chosen_pieces(first.pieces, chosen))

    def read_piece(self, piece: Piece) -> Tensor:
        """The rows of one chunk of every stage, float32 [row, stages · width]."""
        return torch.cat([store.read_piece(piece) for store in self.stores], 1)


def _place(piece: Piece) -> tuple[int, int, int]:
    return piece.shard, piece.chunk, len(piece.local)


class JointRows(NamedTuple):
    """The rows of a crosscoder: no problem is on both sides."""

    train: JointStore
    """What it is trained on: `val`, and a share of the problems of `test`."""
    held_out: JointStore
    """What it is measured on: the other problems of `test`."""
    problems: list[str]
    """Problems of `held_out`, sorted."""
    prompt: Tensor
    """Index of each held-out row's problem in `problems`, int64."""


def open_joint_rows(shards: Mapping[str, Sequence[Path]], keep: RowFilter, train_share: float) -> JointRows:
    """Open the held-out stores of all stages side by side and divide their problems.

    The problems of `test` are divided in the order of their ids, which are digests and so as good as drawn.

    Args:
        shards: held-out shards by stage, base first.
        keep: the row filter; a row that it drops in any stage is dropped.
        train_share: share of the problems of `test` that are trained on.

    Raises:
        ConfigError: rows are unpaired, or fewer than two problems are left to train on or to measure on.
    """
    plan = plan_rows(shards, keep, paired=True, splits=SPLITS)
    stores = [open_store(paths, SPLITS) for paths in shards.values()]
    rows, kept = stores[0].rows, next(iter(plan.stages.values()))
    tested = np.unique(kept.prompt[kept.keep & (rows["split"] == "test").to_numpy()])
    measured = tested[round(train_share * len(tested)) :]
    is_measured = np.isin(kept.prompt, measured)
    train = np.unique(kept.prompt[kept.keep & ~is_measured])
    if min(len(train), len(measured)) < 2:
        raise ConfigError(
            "A crosscoder must have at least 2 problems to train on and 2 to be measured on; "
            f"got {len(train)} and {len(measured)}. Raise problems.splits.test or change drift.crosscoder.train_share."
        )
    held_out = JointStore(stores, kept.keep & is_measured)
    prompt = np.searchsorted(measured, kept.prompt[kept.keep & is_measured])
    names = [plan.problems[place] for place in measured]
    return JointRows(JointStore(stores, kept.keep & ~is_measured), held_out, names, torch.from_numpy(prompt))
