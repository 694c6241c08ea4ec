"""Firings per prompt and latent: sparse sums equal dense counting, however the rows are cut, ordered and stored."""

import functools
import itertools

import pytest
import torch

from sae_core.kernels.codes import Codes
from sae_core.metrics.firing import (
    FiringCounter,
    FiringSums,
    effective_latents,
    firing_sums,
    latent_totals,
    unpacked,
)

PROMPTS, LATENTS, ROWS = 9, 13, 157


@functools.cache
def world(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Dense activations, some of them negative, and the prompts of their rows; one prompt has no rows, one latent never fires."""
    draw = torch.Generator().manual_seed(seed)
    f = torch.randn(ROWS, LATENTS, generator=draw) * (torch.rand(ROWS, LATENTS, generator=draw) < 0.2)
    f[:, 4] = 0
    prompt = torch.randint(PROMPTS - 1, (ROWS,), generator=draw)
    return f, prompt


def codes_of(f: torch.Tensor, stored_zeros: bool = True) -> Codes:
    """Codes of dense activations, entries in falling order of latents, and an entry of value 0 where a row has room for one."""
    kept = [[int(i) for i in row.nonzero().flatten().flip(0)] for row in f]
    if stored_zeros:
        kept = [[*row, next(i for i in range(LATENTS) if i not in row)] for row in kept]
    offsets = torch.tensor([0, *itertools.accumulate(len(row) for row in kept)])
    latents = torch.tensor([i for row in kept for i in row], dtype=torch.int64)
    rows = torch.repeat_interleave(torch.arange(len(f)), offsets.diff())
    return Codes(offsets, latents, f[rows, latents])


def dense(sums: FiringSums) -> tuple[torch.Tensor, torch.Tensor]:
    firings, activation = torch.zeros(PROMPTS, LATENTS, dtype=torch.int64), torch.zeros(PROMPTS, LATENTS, dtype=torch.float64)
    firings[sums.prompts(), sums.latents] = sums.firings.long()
    activation[sums.prompts(), sums.latents] = sums.activation
    return firings, activation


def same(a: FiringSums, b: FiringSums) -> None:
    for name in ("rows", "offsets", "latents", "firings"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    torch.testing.assert_close(a.activation, b.activation, rtol=1e-12, atol=1e-12)
    assert a.d_sae == b.d_sae


def test_sparse_sums_equal_dense_counting() -> None:
    f, prompt = world()
    sums = firing_sums(codes_of(f), prompt, PROMPTS, LATENTS)
    firings, activation = dense(sums)
    for p in range(PROMPTS):
        assert torch.equal(firings[p], (f[prompt == p] != 0).sum(0))
        torch.testing.assert_close(activation[p], f[prompt == p].double().sum(0), rtol=1e-12, atol=1e-12)
    assert torch.equal(sums.rows, torch.bincount(prompt, minlength=PROMPTS))
    assert (sums.firings > 0).all()
    for p in range(PROMPTS):
        assert (sums.latents[sums.offsets[p] : sums.offsets[p + 1]].diff() > 0).all()


@pytest.mark.parametrize("batch", [1, 7, 64, ROWS])
@pytest.mark.parametrize("sort", [False, True])
def test_a_stream_equals_one_batch(batch: int, sort: bool) -> None:
    f, prompt = world()
    order = torch.argsort(prompt, stable=True) if sort else torch.randperm(ROWS, generator=torch.Generator().manual_seed(1))
    counter = FiringCounter(PROMPTS, LATENTS)
    for number, rows in enumerate(order.split(batch)):
        counter.add(codes_of(f[rows]), prompt[rows])
        if number == 1:
            counter.sums()
    same(counter.sums(), firing_sums(codes_of(f), prompt, PROMPTS, LATENTS))
    added = functools.reduce(
        lambda a, b: a + b, (firing_sums(codes_of(f[r]), prompt[r], PROMPTS, LATENTS) for r in order.split(batch))
    )
    same(added, counter.sums())


def test_the_same_stream_gives_the_same_bits() -> None:
    f, prompt = world()
    found = []
    for _ in range(2):
        counter = FiringCounter(PROMPTS, LATENTS)
        for rows in torch.arange(ROWS).split(10):
            counter.add(codes_of(f[rows]), prompt[rows])
        found.append(counter.sums().activation)
    assert torch.equal(*found)


def test_memory_depends_on_prompts_and_latents_alone() -> None:
    f, prompt = world()
    counter, once = FiringCounter(PROMPTS, LATENTS), firing_sums(codes_of(f), prompt, PROMPTS, LATENTS)
    for _ in range(20):
        counter.add(codes_of(f), prompt)
    assert sum(len(part.keys) for part in counter._parts) <= 2 * len(once.latents)
    assert torch.equal(counter.sums().firings, 20 * once.firings)


def test_rows_without_active_latents_and_streams_without_rows_count() -> None:
    none = FiringCounter(PROMPTS, LATENTS).sums()
    assert none.offsets.tolist() == [0] * (PROMPTS + 1)
    silent = firing_sums(codes_of(torch.zeros(3, LATENTS)), torch.tensor([2, 2, 0]), PROMPTS, LATENTS)
    assert silent.rows.tolist() == [1, 0, 2, *[0] * (PROMPTS - 3)]
    assert len(silent.latents) == 0
    same(none + silent, silent)
    assert latent_totals(silent).firings.tolist() == [0] * LATENTS
    f, prompt = world()
    full = firing_sums(codes_of(f), prompt, PROMPTS, LATENTS)
    same(full + none, full)


def test_totals_over_prompts_are_those_of_the_rows() -> None:
    f, prompt = world()
    totals = latent_totals(firing_sums(codes_of(f), prompt, PROMPTS, LATENTS))
    assert torch.equal(totals.firings, (f != 0).sum(0))
    torch.testing.assert_close(totals.activation, f.double().sum(0), rtol=1e-12, atol=1e-12)
    assert totals.prompts.tolist() == [len(prompt[f[:, i] != 0].unique()) for i in range(LATENTS)]


def test_packing_keeps_counts_and_takes_half_the_room() -> None:
    f, prompt = world()
    sums = firing_sums(codes_of(f), prompt, PROMPTS, LATENTS)
    packed = sums.packed()
    assert {name: packed[name].dtype for name in ("latents", "firings", "activation")} == {
        "latents": torch.int16, "firings": torch.int16, "activation": torch.float32,
    }  # fmt: skip
    back = unpacked(packed, LATENTS)
    assert torch.equal(back.firings, sums.firings)
    assert torch.equal(back.latents, sums.latents)
    assert torch.equal(back.rows, sums.rows)
    torch.testing.assert_close(back.activation, sums.activation, rtol=1e-6, atol=0)


def test_packing_widens_where_counts_need_it() -> None:
    many = torch.ones(40_000, 2)
    sums = firing_sums(codes_of(many, stored_zeros=False), torch.zeros(40_000, dtype=torch.int64), 1, 40_000)
    assert sums.packed()["firings"].dtype == torch.int32
    assert sums.packed()["latents"].dtype == torch.int16
    wide = firing_sums(Codes(torch.tensor([0, 1]), torch.tensor([39_999]), torch.ones(1)), torch.tensor([0]), 1, 40_000)
    assert wide.packed()["latents"].dtype == torch.int32
    assert unpacked(wide.packed(), 40_000).latents.tolist() == [39_999]


def test_effective_latents_count_equal_ones() -> None:
    assert float(effective_latents(torch.tensor([3, 3, 3, 3, 0]))) == pytest.approx(4)
    assert float(effective_latents(torch.tensor([1.0, 0.0]))) == pytest.approx(1)
    assert float(effective_latents(torch.tensor([0.5, 0.25, 0.25]))) == pytest.approx(2**1.5)
