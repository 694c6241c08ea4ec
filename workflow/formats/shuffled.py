"""Endless shuffled rows of a store through a bounded buffer."""

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from workflow.formats.activations import Piece, Store


class ShuffledBatches:
    """Endless shuffled batches through a bounded buffer: shards shuffled, chunks shuffled within, rows shuffled in the buffer.

    Epochs follow each other seamlessly: a batch may hold the last rows of one and the first of the next. Every epoch has an order
    of its own and gives every kept row once. The order depends on the seed, the kept rows and `buffer_rows` alone. Memory: at most
    buffer_rows (or one chunk, if that is more) and a batch of rows in float32, beside the chunk being read; a store that fits into
    the buffer is read once.
    """

    def __init__(self, store: "Store", batch: int, buffer_rows: int, seed: int) -> None:
        """`batch` rows per batch; it may be larger than the store."""
        self._store, self._batch, self._buffer_rows = store, batch, buffer_rows
        self._seed = seed & 0xFFFF_FFFF_FFFF_FFFF
        self._memory: Tensor | None = None

    def __iter__(self) -> Iterator[Tensor]:
        return self.batches()

    def batches(self, start: int = 0) -> Iterator[Tensor]:
        """Batches [batch, d_model] float32 from number `start` on; what lies before is skipped without being read.

        Raises:
            CorruptShard: a chunk is damaged.
        """
        first, skip = divmod(start * self._batch, len(self._store))
        waiting, space = torch.empty(0, self._store.d_model), self._space()
        for epoch in itertools.count(first):
            for rows, order in self._buffers(space, epoch, skip if epoch == first else 0):
                taken = 0
                while len(waiting) + len(order) - taken >= self._batch:
                    wanted = self._batch - len(waiting)
                    fresh = rows[order[taken : taken + wanted]]
                    yield torch.cat([waiting, fresh]) if len(waiting) else fresh
                    waiting, taken = waiting[:0], taken + wanted
                waiting = torch.cat([waiting, rows[order[taken:]]])

    def _space(self) -> Tensor:
        """Memory for one buffer, filled again and again; empty where the whole store is held instead."""
        fits = len(self._store) <= self._buffer_rows
        rows = 0 if fits else max(self._buffer_rows, max(len(piece.local) for piece in self._store.pieces))
        return torch.empty(rows, self._store.d_model)

    def _buffers(self, space: Tensor, epoch: int, skip: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows in memory and the order in which to take them, without the first `skip` of the epoch."""
        if not len(space):
            if self._memory is None:
                self._memory = self._store.read()
            yield self._memory, self._order(epoch, 0, len(self._store))[skip:]
            return
        for number, pieces in enumerate(self._plan(epoch)):
            count = sum(len(piece.local) for piece in pieces)
            if skip >= count:
                skip -= count
                continue
            self._fill(space, pieces)
            yield space, self._order(epoch, number, count)[skip:]
            skip = 0

    def _plan(self, epoch: int) -> list[list["Piece"]]:
        """The chunks of every buffer of an epoch: whole chunks, in shuffled order, as many as fit."""
        draw = np.random.default_rng([self._seed, epoch])
        by_shard: dict[int, list[Piece]] = {}
        for piece in self._store.pieces:
            by_shard.setdefault(piece.shard, []).append(piece)
        shards = list(by_shard.values())
        order = [shards[shard][chunk] for shard in draw.permutation(len(shards)) for chunk in draw.permutation(len(shards[shard]))]
        buffers, held = [], self._buffer_rows
        for piece in order:
            if held + len(piece.local) > self._buffer_rows:
                buffers.append([])
                held = 0
            buffers[-1].append(piece)
            held += len(piece.local)
        return buffers

    def _fill(self, space: Tensor, pieces: list["Piece"]) -> None:
        place = 0
        for piece in pieces:
            space[place : place + len(piece.local)] = self._store.read_piece(piece)
            place += len(piece.local)

    def _order(self, epoch: int, buffer: int, count: int) -> Tensor:
        draw = np.random.default_rng([self._seed, epoch, buffer + 1])  # without + 1 buffer 0 would repeat the plan's stream
        return torch.from_numpy(draw.permutation(count))
