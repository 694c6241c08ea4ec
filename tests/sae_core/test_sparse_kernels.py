"""Every kernel against dense float64 truths, at odd sizes and at the borders."""

import pytest
import torch
from torch import Tensor

from sae_core.kernels.codes import ByLatent, Codes, equally_many
from sae_core.kernels.sparse import (
    by_latent,
    decode,
    entry_gradients,
    latent_sums,
    topk_rows,
    unit_rows_,
    weight_gradient,
)

SHAPES = [(5, 7, 11, 3), (1, 3, 4, 1), (1, 8, 64, 2), (33, 19, 130, 9), (16, 12, 96, 96), (9, 5, 800, 17)]
"""batch, d_model, d_sae, k: odd sizes, one row, k = d_sae, many latents that no row touches."""


def selection(batch: int, d_model: int, d_sae: int, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Codes, their latents, rows and weights, all random."""
    draw = torch.Generator().manual_seed(batch * 1000 + d_sae)
    indices = torch.stack([torch.randperm(d_sae, generator=draw)[:k] for _ in range(batch)])
    return (
        torch.randn(batch, k, generator=draw),
        indices,
        torch.randn(batch, d_model, generator=draw),
        torch.randn(d_sae, d_model, generator=draw),
    )


def sorted_codes(values: Tensor, indices: Tensor, d_sae: int) -> tuple[Tensor, ByLatent]:
    entries = by_latent(equally_many(indices, values), d_sae)
    return values.reshape(-1)[entries.order], entries


def densified(values: Tensor, indices: Tensor, d_sae: int) -> Tensor:
    return values.new_zeros(len(values), d_sae).scatter(1, indices, values)


def near(found: Tensor, truth: Tensor) -> None:
    torch.testing.assert_close(found.double(), truth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_decode_is_the_dense_product(shape: tuple[int, int, int, int]) -> None:
    values, indices, _, weights = selection(*shape)
    near(decode(equally_many(indices, values), weights), densified(values.double(), indices, shape[2]) @ weights.double())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_are_those_of_the_dense_product(shape: tuple[int, int, int, int]) -> None:
    values, indices, rows, weights = selection(*shape)
    dense = densified(values.double(), indices, shape[2])
    codes, entries = sorted_codes(values, indices, shape[2])
    near(weight_gradient(codes, entries, rows), dense.T @ rows.double())
    near(latent_sums(codes, entries, len(rows)), dense.sum(0))
    truth = (rows.double() @ weights.double().T).gather(1, indices).reshape(-1)[entries.order]
    near(entry_gradients(rows, weights, entries), truth)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_entries_by_latent_are_complete_and_in_one_order(shape: tuple[int, int, int, int]) -> None:
    _, indices, _, _ = selection(*shape)
    entries = by_latent(equally_many(indices, indices.float()), shape[2])
    assert entries.order.sort().values.tolist() == list(range(indices.numel()))
    for latent in range(shape[2]):
        first, last = entries.offsets[latent], entries.offsets[latent + 1]
        assert entries.rows[first:last].tolist() == sorted((indices == latent).any(1).nonzero().squeeze(1).tolist())
        assert (entries.latents[first:last] == latent).all()


def test_untouched_latents_get_gradients_of_exactly_zero_even_in_poisoned_memory() -> None:
    values, indices, rows, _ = selection(9, 5, 800, 17)
    codes, entries = sorted_codes(values, indices, 800)
    poison = torch.full((800, 5), float("nan"))
    del poison  # freed memory full of NaN is what the result is then likely to be laid into
    gradient = weight_gradient(codes, entries, rows)
    touched = torch.zeros(800, dtype=torch.bool).index_fill(0, indices.reshape(-1), True)
    assert (gradient[~touched] == 0).all()
    assert (latent_sums(codes, entries, 9)[~touched] == 0).all()
    assert torch.isfinite(gradient).all()


def test_every_kernel_is_repeatable_to_the_bit() -> None:
    values, indices, rows, weights = selection(33, 19, 130, 9)

    def all_results() -> list[Tensor]:
        codes, entries = sorted_codes(values, indices, 130)
        return [
            decode(equally_many(indices, values), weights),
            entry_gradients(rows, weights, entries),
            weight_gradient(codes, entries, rows),
            latent_sums(codes, entries, 33),
            *topk_rows(rows @ weights.T, 9),
        ]

    for first, second in zip(all_results(), all_results(), strict=True):
        assert torch.equal(first, second)


def test_the_gradient_of_a_sum_over_rows_is_the_sum_of_their_gradients() -> None:
    values, indices, rows, _ = selection(16, 12, 96, 8)
    whole = weight_gradient(*sorted_codes(values, indices, 96), rows)
    halves = [weight_gradient(*sorted_codes(values[half], indices[half], 96), rows[half]) for half in (slice(0, 5), slice(5, 16))]
    torch.testing.assert_close(sum(halves), whole)


def test_renaming_latents_renames_results_only() -> None:
    values, indices, rows, weights = selection(16, 12, 96, 8)
    names = torch.randperm(96, generator=torch.Generator().manual_seed(0))
    renamed = torch.empty_like(weights)
    renamed[names] = weights
    torch.testing.assert_close(
        decode(equally_many(names[indices], values), renamed), decode(equally_many(indices, values), weights)
    )
    before = weight_gradient(*sorted_codes(values, indices, 96), rows)
    after = weight_gradient(*sorted_codes(values, names[indices], 96), rows)
    torch.testing.assert_close(after[names], before)


@pytest.mark.parametrize("k", [1, 4, 16, 31, 32, 200, 512])
@pytest.mark.parametrize("d_sae", [512, 520, 517])
def test_topk_finds_the_same_set_as_a_full_sort(k: int, d_sae: int) -> None:
    z = torch.randn(13, d_sae, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
    values, indices = topk_rows(z, k)
    truth = z.sort(1, descending=True)
    assert torch.equal(indices.sort(1).values, truth.indices[:, :k].sort(1).values)
    assert torch.equal(z.gather(1, indices), values)


def adversarial_rows(d_sae: int, k: int) -> dict[str, Tensor]:
    row = torch.arange(d_sae, dtype=torch.float32)
    groups = d_sae // 8
    one_group = torch.where(row % groups == 3, row + 1000, -row)
    return {
        "winners in one group": one_group,
        "winners side by side": torch.where(row < k, 5 + row, -row),
        "all negative": -1 - row,
        "all equal": torch.ones(d_sae),
        "two values": (row % 3 == 0).float(),
        "ties at the border": torch.where(row < k - 1, 9.0, 1.0),
        "infinite": torch.where(row == 7, float("inf"), -row),
    }


@pytest.mark.parametrize("name", adversarial_rows(512, 16))
def test_topk_survives_adversarial_rows(name: str) -> None:
    z = adversarial_rows(512, 16)[name].unsqueeze(0)
    values, indices = topk_rows(z, 16)
    assert len(indices.unique()) == 16
    assert torch.equal(z.gather(1, indices), values)
    assert torch.equal(values.sort(1).values, z.topk(16).values.sort(1).values)


def test_topk_shows_nan_instead_of_hiding_it() -> None:
    z = torch.randn(4, 512, generator=torch.Generator().manual_seed(0))
    z[2, 100] = float("nan")
    values, indices = topk_rows(z, 16)
    assert bool(values[2].isnan().any())
    assert 100 in indices[2]


def test_rows_get_norm_one_and_a_row_of_zeros_stays() -> None:
    weights = torch.randn(600, 7, generator=torch.Generator().manual_seed(0)) * 3
    weights[5] = 0
    unit_rows_(weights)
    expected = torch.ones(600)
    expected[5] = 0
    torch.testing.assert_close(weights.norm(dim=1), expected)


def ragged() -> tuple[Codes, Tensor]:
    """Rows with 3, 0, 1 and 5 entries, one of them 0, and their dense form."""
    dense = torch.zeros(4, 9)
    dense[0, [8, 2, 5]] = torch.tensor([1.0, -2.0, 0.5])
    dense[2, 4] = 3.0
    dense[3, [0, 1, 2, 8]] = torch.tensor([1.0, 2.0, 3.0, -4.0])
    latents = torch.tensor([8, 2, 5, 4, 0, 1, 2, 7, 8])
    rows = torch.tensor([0, 0, 0, 2, 3, 3, 3, 3, 3])
    return Codes(torch.tensor([0, 3, 3, 4, 9]), latents, dense[rows, latents]), dense


def test_rows_may_have_any_number_of_entries() -> None:
    codes, dense = ragged()
    draw = torch.Generator().manual_seed(0)
    weights, rows = torch.randn(9, 5, generator=draw), torch.randn(4, 5, generator=draw)
    near(decode(codes, weights), (dense @ weights).double())
    entries = by_latent(codes, 9)
    near(weight_gradient(codes.values[entries.order], entries, rows), (dense.T @ rows).double())
    near(entry_gradients(rows, weights, entries), (rows @ weights.T).double()[entries.rows, entries.latents])
    assert torch.equal(codes.dense(9), dense)
    assert codes.active_per_row().tolist() == [3, 0, 1, 4]
    assert torch.equal(codes.active().dense(9), dense)
    assert codes.rows().tolist() == [0, 0, 0, 2, 3, 3, 3, 3, 3]


def test_no_entry_at_all_is_a_batch_too() -> None:
    none = Codes(torch.zeros(4, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    entries, weights = by_latent(none, 6), torch.ones(6, 5)
    assert torch.equal(decode(none, weights), torch.zeros(3, 5))
    assert torch.equal(weight_gradient(torch.zeros(0), entries, torch.ones(3, 5)), torch.zeros(6, 5))
    assert entry_gradients(torch.ones(3, 5), weights, entries).numel() == 0
    assert torch.equal(none.dense(6), torch.zeros(3, 6))
