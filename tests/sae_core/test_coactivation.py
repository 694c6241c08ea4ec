"""Correlations of chosen pairs of latents: those of dense activations, in whatever batches they come."""

import functools

import torch

from sae_core.kernels.codes import Codes, equally_many
from sae_core.metrics.coactivation import CoactivationSums, coactivation_sums, correlations

ROWS, FIRST, SECOND = 157, 13, 19
PAIRS = torch.tensor([[3, 5], [0, 0], [3, 6], [12, 18], [7, 5], [3, 5], [11, 2]])


@functools.cache
def codes(d_sae: int, k: int, seed: int) -> Codes:
    draw = torch.Generator().manual_seed(seed)
    latents = torch.stack([torch.randperm(d_sae - 2, generator=draw)[:k] for _ in range(ROWS)])
    return equally_many(latents, torch.rand(ROWS, k, generator=draw) - 0.1)


def part(whole: Codes, rows: torch.Tensor) -> Codes:
    k = len(whole.latents) // ROWS
    return equally_many(whole.latents.view(ROWS, k)[rows], whole.values.view(ROWS, k)[rows])


def test_correlations_are_those_of_dense_activations() -> None:
    first, second = codes(FIRST, 4, 0), codes(SECOND, 3, 1)
    found = correlations(coactivation_sums(first, second, PAIRS, FIRST, SECOND), PAIRS)
    f, g = first.dense(FIRST).double(), second.dense(SECOND).double()
    for (a, b), value in zip(PAIRS.tolist(), found, strict=True):
        expected = torch.corrcoef(torch.stack([f[:, a], g[:, b]]))[0, 1]
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12, equal_nan=True)
    assert found.isnan().tolist() == [False, False, False, True, False, False, True]


def test_the_same_activations_correlate_fully() -> None:
    first = codes(FIRST, 4, 0)
    pairs = torch.stack([torch.arange(FIRST - 2)] * 2, dim=1)
    torch.testing.assert_close(
        correlations(coactivation_sums(first, first._replace(values=3 * first.values), pairs, FIRST, FIRST), pairs),
        torch.ones(FIRST - 2, dtype=torch.float64),
    )


def test_a_stream_equals_one_batch() -> None:
    first, second = codes(FIRST, 4, 0), codes(SECOND, 3, 1)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(3))
    parts = [coactivation_sums(part(first, rows), part(second, rows), PAIRS, FIRST, SECOND) for rows in order.split(20)]
    for mine, theirs in zip(
        functools.reduce(CoactivationSums.__add__, parts), coactivation_sums(first, second, PAIRS, FIRST, SECOND), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


def test_no_pairs_and_no_active_latents() -> None:
    first, second = codes(FIRST, 4, 0), codes(SECOND, 3, 1)
    assert coactivation_sums(first, second, PAIRS[:0], FIRST, SECOND).product.shape == (0,)
    silent = Codes(torch.zeros(ROWS + 1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    sums = coactivation_sums(silent, second, PAIRS, FIRST, SECOND)
    assert bool((sums.product == 0).all())
    assert correlations(sums, PAIRS).isnan().all()
