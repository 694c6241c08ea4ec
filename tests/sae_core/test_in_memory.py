"""Batches and quality for rows in memory."""

from itertools import islice

import pytest
import torch
from small_saes import configs, fresh, planted_rows

from sae_core.training.in_memory import batches_of, quality_on


def test_every_pass_holds_each_row_once_in_a_new_order() -> None:
    rows = torch.arange(12.0).unsqueeze(1)
    found = list(islice(batches_of(rows, 4, seed=0), 6))
    first, second = torch.cat(found[:3]), torch.cat(found[3:])
    assert sorted(first.flatten().tolist()) == sorted(second.flatten().tolist()) == list(range(12))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("done", [0, 1, 2, 3, 7])
def test_the_stream_goes_on_behind_any_update(done: int) -> None:
    rows = torch.arange(14.0).unsqueeze(1)
    whole, rest = list(islice(batches_of(rows, 4, seed=3), 10)), list(islice(batches_of(rows, 4, seed=3, done=done), 10 - done))
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(whole[done:], rest, strict=True))


def test_fewer_rows_than_a_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="at least a batch of 8 rows; got 3"):
        next(batches_of(torch.ones(3, 2), 8, seed=0))


@pytest.mark.parametrize("kind", dict(configs()))
def test_quality_is_that_of_all_rows_at_once(kind: str) -> None:
    sae, rows = fresh(dict(configs())[kind]), planted_rows(3000)
    found, x_hat = quality_on(rows)(sae), sae(rows).detach()
    expected = (rows - x_hat).square().sum() / (rows - rows.mean(0)).square().sum()
    assert found.nmse == pytest.approx(float(expected), rel=1e-4)
    assert found.l0 == pytest.approx(float((sae.encode_dense(rows) != 0).sum(1).double().mean()))
