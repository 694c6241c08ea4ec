"""Selections whose size varies from row to row, against full sorts and dense masks."""

import pytest
import torch
from torch import Tensor

from sae_core.kernels.codes import Codes
from sae_core.kernels.selection import _nth_largest, _nth_largest_on_device, above, batch_topk

SHAPES = [(1, 1), (1, 7), (3, 5), (16, 64), (13, 517), (40, 1000)]


def drawn(batch: int, d_sae: int) -> Tensor:
    return torch.randn(batch, d_sae, generator=torch.Generator().manual_seed(batch * 1000 + d_sae))


def in_order(codes: Codes) -> bool:
    """Rows one after the other, latents rising within each."""
    places = codes.rows() * 1_000_000 + codes.latents
    return bool((places.diff() > 0).all()) and codes.offsets[[0, -1]].tolist() == [0, len(codes.latents)]


def by_full_sort(z: Tensor, total: int) -> Tensor:
    """Dense codes of the first `total` entries in the order of falling value, then of place."""
    best = z.reshape(-1).sort(descending=True, stable=True).indices[:total]
    found = torch.zeros(z.numel())
    found[best] = z.reshape(-1)[best]
    return found.view_as(z)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_above_keeps_what_exceeds_the_threshold_of_its_latent(shape: tuple[int, int]) -> None:
    z = drawn(*shape)
    for threshold in (drawn(1, shape[1])[0], torch.tensor(0.5), torch.tensor(9.0), torch.tensor(-9.0)):
        codes = above(z, threshold)
        assert in_order(codes)
        assert torch.equal(codes.dense(shape[1]), torch.where(z > threshold, z, 0))
        assert torch.equal(codes.offsets.diff(), (z > threshold).sum(1))


def test_above_leaves_out_what_equals_the_threshold_and_shows_nan() -> None:
    z = torch.tensor([[1.0, 2.0, 3.0], [0.0, float("nan"), -1.0]])
    codes = above(z, torch.tensor([1.0, 1.0, 1.0]))
    assert codes.offsets.tolist() == [0, 2, 3]
    assert codes.latents.tolist() == [1, 2, 1]
    assert codes.values.isnan().tolist() == [False, False, True]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.5, 1.0])
def test_batch_topk_keeps_the_set_of_a_full_sort(shape: tuple[int, int], share: float) -> None:
    z = drawn(*shape)
    total = max(1, round(share * z.numel()))
    codes = batch_topk(z, total)
    assert in_order(codes)
    assert len(codes.values) == total
    assert torch.equal(codes.dense(shape[1]), by_full_sort(z, total))


@pytest.mark.parametrize("total", [1, 63, 64, 65, 500, 1023])
def test_batch_topk_takes_of_equal_entries_the_first(total: int) -> None:
    for z in (torch.ones(8, 128), torch.arange(1024).view(8, 128) % 3 - 5.0, (drawn(8, 128) * 2).round()):
        codes = batch_topk(z, total)
        assert in_order(codes)
        assert len(codes.values) == total
        # by place: a dense form would not show chosen entries of value 0
        best = z.reshape(-1).sort(descending=True, stable=True).indices[:total].sort().values
        assert torch.equal(codes.rows() * 128 + codes.latents, best)


def test_batch_topk_takes_all_from_one_row_where_they_are_largest() -> None:
    z = drawn(9, 64)
    z[4] += 100
    codes = batch_topk(z, 64)
    assert codes.offsets.diff().tolist() == [0, 0, 0, 0, 64, 0, 0, 0, 0]


@pytest.mark.parametrize("poisoned", [1, 20, 64, 512])
def test_batch_topk_counts_nan_as_largest(poisoned: int) -> None:
    z = drawn(8, 64)
    z.view(-1)[torch.randperm(512, generator=torch.Generator().manual_seed(1))[:poisoned]] = float("nan")
    codes = batch_topk(z, 40)
    assert len(codes.values) == 40
    assert int(codes.values.isnan().sum()) == min(poisoned, 40)


def test_batch_topk_with_infinite_entries() -> None:
    z = drawn(8, 64)
    z[2, 3], z[5, 6], z[7, 7] = float("inf"), float("-inf"), float("nan")
    codes = batch_topk(z, 20)
    assert torch.equal(codes.values.isinf().nonzero().squeeze(1), (codes.rows() * 64 + codes.latents == 131).nonzero().squeeze(1))
    assert int(codes.values.isnan().sum()) == 1


def test_both_ways_to_the_nth_largest_value_agree() -> None:
    values = drawn(1, 400)[0]
    values[:40], values[40:60] = float("-inf"), float("nan")
    for n in (1, 20, 21, 300, 360, 361, 400):
        assert float(_nth_largest_on_device(values, n)) == _nth_largest(values, n)
