"""Shuffled batches: every row once per epoch, orders that repeat, skips that are exact and read nothing, a bounded buffer."""

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_stores import make_store
from torch import Tensor

from workflow.formats.activations import RowFilter, ShuffledBatches, Store


def taken(stream: ShuffledBatches, count: int, start: int = 0) -> list[Tensor]:
    return list(itertools.islice(stream.batches(start), count))


def numbers(rows: Tensor) -> list[int]:
    """The rows' numbers in the store, kept in column 0."""
    return (rows[:, 0] * 100).round().int().tolist()


@pytest.fixture(scope="module")
def odd_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Three shards of odd sizes, chunks of 16, 151 rows of which some are filtered."""
    manifests, _ = make_store(tmp_path_factory.mktemp("odd"), [67, 3, 81])
    return Store(manifests, RowFilter(1, 1.5))


@settings(max_examples=40, deadline=None)
@given(batch=st.integers(1, 300), buffer_rows=st.sampled_from([1, 20, 40, 75, 1000]), seed=st.integers(-3, 3))
def test_every_row_comes_once_per_epoch_and_epochs_join(odd_store: Store, batch: int, buffer_rows: int, seed: int):
    rows, epochs = len(odd_store), 3
    batches = taken(ShuffledBatches(odd_store, batch, buffer_rows, seed), -(-epochs * rows // batch))
    assert all(values.shape == (batch, 8) and values.dtype == torch.float32 for values in batches)
    stream = numbers(torch.cat(batches))
    expected = sorted(numbers(odd_store.read()))
    epoch_orders = [stream[epoch * rows : (epoch + 1) * rows] for epoch in range(epochs)]
    assert all(sorted(order) == expected for order in epoch_orders)
    assert len({tuple(order) for order in epoch_orders}) == epochs


@settings(max_examples=40, deadline=None)
@given(batch=st.integers(1, 200), buffer_rows=st.sampled_from([20, 40, 1000]), start=st.integers(0, 12))
def test_skipping_gives_what_iterating_gives(odd_store: Store, batch: int, buffer_rows: int, start: int):
    stream = ShuffledBatches(odd_store, batch, buffer_rows, seed=5)
    for skipped, walked in zip(taken(stream, 3, start), taken(stream, start + 3)[start:], strict=True):
        assert torch.equal(skipped, walked)


def test_rows_belong_to_the_values_that_were_stored(odd_store: Store):
    values = dict(zip(numbers(odd_store.read()), odd_store.read(), strict=True))
    for batch in taken(ShuffledBatches(odd_store, 32, 40, seed=1), 10):
        for number, row in zip(numbers(batch), batch, strict=True):
            assert torch.equal(values[number], row)


def test_the_order_follows_from_the_seed(odd_store: Store):
    first, again, other = (torch.cat(taken(ShuffledBatches(odd_store, 50, 40, seed), 4)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_an_order_is_the_same_wherever_the_store_lies(tmp_path: Path, odd_store: Store):
    manifests, _ = make_store(tmp_path, [67, 3, 81])
    copy = Store(manifests, RowFilter(1, 1.5))
    for here, there in zip(
        taken(ShuffledBatches(copy, 32, 40, 7), 9), taken(ShuffledBatches(odd_store, 32, 40, 7), 9), strict=True
    ):
        assert torch.equal(here, there)


def test_in_memory_the_order_does_not_depend_on_shards_and_chunks(tmp_path: Path):
    one, _ = make_store(tmp_path / "one", [151], chunk_rows=64)
    many, _ = make_store(tmp_path / "many", [67, 3, 81], chunk_rows=16)
    left, right = (torch.cat(taken(ShuffledBatches(Store(store), 32, 151, 0), 12)) for store in (one, many))
    assert torch.equal(left, right)


class CountingStore(Store):
    """A store that remembers what was read."""

    def read_piece(self, piece):
        self.log = [*getattr(self, "log", []), (piece.shard, piece.chunk)]
        return super().read_piece(piece)


@pytest.fixture
def counting(tmp_path: Path) -> CountingStore:
    manifests, _ = make_store(tmp_path, [160, 160])
    counting = CountingStore(manifests)
    counting.log = []
    return counting


def test_what_fits_is_read_once(counting: CountingStore):
    taken(ShuffledBatches(counting, 64, 320, seed=0), 30)
    assert len(counting.log) == len(set(counting.log)) == 20


def test_each_epoch_reads_each_chunk_once_a_buffer_at_a_time(counting: CountingStore):
    stream = ShuffledBatches(counting, 16, 64, seed=0).batches()
    held = []
    for _ in range(20):
        next(stream)
        held.append(len(counting.log))
    assert held == [4] * 4 + [8] * 4 + [12] * 4 + [16] * 4 + [20] * 4
    assert len(set(counting.log)) == 20
    assert [chunk for _, chunk in counting.log] != sorted(chunk for _, chunk in counting.log)


def test_chunks_of_a_shard_follow_each_other(counting: CountingStore):
    taken(ShuffledBatches(counting, 16, 64, seed=3), 20)
    shards = [shard for shard, _ in counting.log]
    assert shards in ([0] * 10 + [1] * 10, [1] * 10 + [0] * 10)


def test_rows_of_a_buffer_are_mixed(counting: CountingStore):
    first = numbers(taken(ShuffledBatches(counting, 64, 64, seed=0), 1)[0])
    assert len({number // 16 for number in first}) == 4
    assert first != sorted(first)
    assert len({number // 16 for number in first[:16]}) > 1


def test_whole_buffers_are_skipped_unread(counting: CountingStore):
    next(ShuffledBatches(counting, 16, 64, seed=0).batches(20 * 1000 + 9))
    assert len(counting.log) == 4


def test_the_buffer_is_bounded(counting: CountingStore, monkeypatch: pytest.MonkeyPatch):
    spaces = []
    plain = ShuffledBatches._fill
    monkeypatch.setattr(ShuffledBatches, "_fill", lambda self, space, pieces: (spaces.append(space), plain(self, space, pieces))[1])
    taken(ShuffledBatches(counting, 16, 70, seed=0), 60)
    assert {len(space) for space in spaces} == {70}
    assert len({space.data_ptr() for space in spaces}) == 1  # one piece of memory, filled again and again
