"""Bounds on the norm of gradients that are not written out."""

import pytest
import torch

from sae_core.kernels.codes import equally_many
from sae_core.kernels.gradient import ExtraRows, RowGradient
from sae_core.kernels.sparse import by_latent


def drawn(batch: int, d_model: int, d_sae: int, k: int, seed: int) -> RowGradient:
    draw = torch.Generator().manual_seed(seed)
    latents = torch.stack([torch.randperm(d_sae, generator=draw)[:k] for _ in range(batch)])
    entries = by_latent(equally_many(latents, torch.zeros(batch, k)), d_sae)
    return RowGradient(entries, torch.randn(batch * k, generator=draw), torch.randn(batch, d_model, generator=draw))


def product_of_norms(gradient: RowGradient) -> float:
    return float(gradient.coefficients.norm() * gradient.rows.norm())


@pytest.mark.parametrize("shape", [(5, 7, 11, 3), (1, 3, 4, 1), (33, 19, 130, 9), (16, 12, 96, 96), (64, 5, 64, 1)], ids=str)
def test_the_bound_lies_above_the_norm_and_below_the_product_of_norms(shape: tuple[int, int, int, int]) -> None:
    for seed in range(5):
        gradient = drawn(*shape, seed)
        bound = float(gradient.norm_bound())
        assert float(gradient.written_out().norm()) <= bound * (1 + 1e-6)
        assert bound <= product_of_norms(gradient) * (1 + 1e-6)


def test_the_bound_is_the_norm_where_no_latent_has_two_rows() -> None:
    gradient = drawn(6, 5, 6, 1, seed=0)
    gradient = gradient._replace(entries=by_latent(equally_many(torch.arange(6).view(6, 1), torch.zeros(6, 1)), 6))
    torch.testing.assert_close(gradient.norm_bound(), gradient.written_out().norm())
    assert float(gradient.norm_bound()) < 0.9 * product_of_norms(gradient)


def test_extra_rows_count() -> None:
    gradient = drawn(5, 7, 11, 3, seed=0)._replace(extra=ExtraRows(torch.tensor([2, 9]), torch.full((2, 7), 50.0)))
    assert float(gradient.written_out().norm()) <= float(gradient.norm_bound())
