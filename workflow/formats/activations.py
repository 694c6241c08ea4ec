"""Reading the rows of one layer of a policy on a text set: the shelf between `activations` and all that learn from rows.

The one place where rows are filtered: kept = position ≥ skip_positions and norm ≤ max_norm_multiple × median norm, the median over
the rows of the opened shards and splits at position ≥ skip_positions.
"""

import contextlib
import copy
import logging
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from workflow.config.section import ConfigError
from workflow.formats.rows import to_frame
from workflow.formats.shard_reading import CorruptShard, OpenShard, set_aside
from workflow.formats.shuffled import ShuffledBatches

__all__ = [
    "CorruptShard",
    "OpenShard",
    "Piece",
    "RowFilter",
    "ShuffledBatches",
    "Store",
    "chosen_pieces",
    "damage_set_aside",
    "kept_rows",
    "set_aside",
]

log = logging.getLogger(__name__)

ALIKE = ("d_model", "layer", "hook_point", "dtype")
"""What all shards of a store have in common."""


class RowFilter(NamedTuple):
    """Which rows are neither trained on nor scored in the primary line: attention sinks."""

    skip_positions: int
    """Positions at the start of every text."""
    max_norm_multiple: float
    """Largest norm, as a multiple of the median."""


class Piece(NamedTuple):
    """The kept rows of one chunk."""

    shard: int
    """Index into the shards of the store."""
    chunk: int
    """Chunk of that shard."""
    local: np.ndarray
    """Kept rows within the chunk, rising."""
    start: int
    """Place of the first of them in `Store.rows`."""


class Store:
    """Rows of one layer of a policy on a text set: one or more shards, opened by their json manifests."""

    def __init__(
        self, manifests: Sequence[Path | str], keep: RowFilter | None = None, splits: Collection[str] | None = None
    ) -> None:
        """Open shards in the given order.

        Args:
            manifests: their `shard_<n>.json`.
            keep: the row filter; None keeps all rows.
            splits: splits whose rows are wanted; None for all.

        Raises:
            CorruptShard: a shard is damaged (whatever can be seen without reading the arrays).
            ConfigError: the shards do not belong together, or no row is left.
        """
        self._shards = [OpenShard(path) for path in manifests]
        self.manifests: list[dict[str, Any]] = [shard.facts for shard in self._shards]
        self._must_agree()
        first = self.manifests[0]
        self.d_model: int = first["d_model"]
        self.layer: int = first["layer"]
        self.hook_point: str = first["hook_point"]
        rows = to_frame([shard.rows for shard in self._shards])
        chosen = np.ones(len(rows), bool) if splits is None else rows["split"].isin(list(splits)).to_numpy()
        kept, self.median_norm = kept_rows(rows, keep, chosen)
        if not kept.any():
            raise ConfigError(
                f"Row filter and splits must leave rows in {self._shards[0].files.manifest.parent}; none of {len(rows)} is left "
                f"with {keep} and splits {splits and sorted(splits)}. Lower activations.skip_positions or make longer texts."
            )
        self.dropped_share = float(1 - kept.sum() / chosen.sum())
        self.rows: pd.DataFrame = _chosen_rows(rows, kept)
        self.pieces: list[Piece] = list(self._pieces(kept))

    def _must_agree(self) -> None:
        if not self._shards:
            raise ConfigError("A store must have at least one shard; got no manifest. Name the shard_<n>.json files of one layer.")
        for shard in self._shards[1:]:
            for field in ALIKE:
                if shard.facts[field] != self.manifests[0][field]:
                    raise ConfigError(
                        f"All shards of a store must have the same {field}; {self._shards[0].files.manifest} has "
                        f"{self.manifests[0][field]}, {shard.files.manifest} has {shard.facts[field]}. Open them apart."
                    )

    def _pieces(self, kept: np.ndarray) -> Iterator[Piece]:
        first = start = 0
        for number, shard in enumerate(self._shards):
            for chunk in range(shard.chunks):
                length = min(shard.chunk_rows, shard.facts["rows"] - chunk * shard.chunk_rows)
                local = np.flatnonzero(kept[first : first + length])
                if len(local):
                    yield Piece(number, chunk, local, start)
                first, start = first + length, start + len(local)

    def __len__(self) -> int:
        return len(self.rows)

    def only(self, chosen: np.ndarray) -> "Store":
        """The same store with some of its rows alone: bool [row], in the order of `rows`."""
        fewer = copy.copy(self)
        fewer.rows = _chosen_rows(self.rows, chosen)
        fewer.pieces = list(chosen_pieces(self.pieces, chosen))
        return fewer

    def read_piece(self, piece: Piece) -> Tensor:
        """The kept rows of one chunk, float32."""
        values = self.read_stored(piece)
        return values.to(torch.float32)

    def read_stored(self, piece: Piece) -> Tensor:
        """The kept rows of one chunk in their stored format.

        Raises:
            CorruptShard: the chunk is damaged.
        """
        values = self._shards[piece.shard].chunk(piece.chunk)
        return values if len(piece.local) == len(values) else values[torch.from_numpy(piece.local)]

    def sequential(self, batch_rows: int) -> Iterator[tuple[Tensor, slice]]:
        """All kept rows in storage order, `batch_rows` at a time (the last batch may be smaller), and their places in `rows`."""
        start, waiting = 0, torch.empty(0, self.d_model)
        for piece in self.pieces:
            waiting = torch.cat([waiting, self.read_piece(piece)]) if len(waiting) else self.read_piece(piece)
            while len(waiting) >= batch_rows:
                yield waiting[:batch_rows], slice(start, start + batch_rows)
                waiting, start = waiting[batch_rows:], start + batch_rows
        if len(waiting):
            yield waiting, slice(start, start + len(waiting))

    def read(self) -> Tensor:
        """All kept rows, float32, in storage order."""
        values = torch.empty(len(self), self.d_model)
        for piece in self.pieces:
            values[piece.start : piece.start + len(piece.local)] = self.read_piece(piece)
        return values


def _chosen_rows(rows: pd.DataFrame, chosen: np.ndarray) -> pd.DataFrame:
    fewer = rows.loc[chosen].reset_index(drop=True)
    for name in ("problem", "split", "trace"):
        fewer[name] = fewer[name].cat.remove_unused_categories()
    return fewer


def chosen_pieces(pieces: Sequence[Piece], chosen: np.ndarray) -> Iterator[Piece]:
    """Pieces with their chosen rows alone, those without any left out: bool [row], in the order of the pieces."""
    start = 0
    for piece in pieces:
        local = piece.local[chosen[piece.start : piece.start + len(piece.local)]]
        if len(local):
            yield piece._replace(local=local, start=start)
            start += len(local)


def kept_rows(rows: pd.DataFrame, keep: RowFilter | None, chosen: np.ndarray | None = None) -> tuple[np.ndarray, float]:
    """Mask of the rows that the filter keeps among the chosen ones (None: all), and the median norm it is measured against."""
    norm = rows["norm"].to_numpy()
    past = rows["pos"].to_numpy() >= (keep.skip_positions if keep else 0)
    past = past if chosen is None else past & chosen
    median = float(np.median(norm[past])) if past.any() else float("nan")
    return (past & (norm <= keep.max_norm_multiple * median) if keep else past), median


@contextlib.contextmanager
def damage_set_aside() -> Iterator[None]:
    """Whatever shard is found damaged inside is set aside before the error goes on, so that the next run builds it anew."""
    try:
        yield
    except CorruptShard as error:
        log.warning("set aside: %s", ", ".join(str(path) for path in set_aside(error.manifest)))
        raise
