"""Latent scaling: the closed form is the least-squares scale, and tells what a frozen SAE explains from what it does not."""

import functools

import pytest
import torch

from sae_core.kernels.codes import Codes, equally_many
from sae_core.metrics.latent_scaling import ScalingSums, scaling, scaling_sums

ROWS, D, LATENTS, K = 211, 12, 17, 3


@functools.cache
def world() -> tuple[Codes, torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    latents = torch.stack([torch.randperm(LATENTS - 1, generator=draw)[:K] for _ in range(ROWS)])
    codes = equally_many(latents, torch.rand(ROWS, K, generator=draw) + 0.1)
    W_dec = 0.5 + torch.randn(LATENTS, D, generator=draw)
    return codes, W_dec, torch.randn(ROWS, D, generator=draw) + 4, torch.randn(ROWS, D, generator=draw) + 4


def test_scales_are_those_of_least_squares() -> None:
    codes, W_dec, x, x_hat = world()
    centre = torch.full((D,), 4.0)
    found, f = scaling(scaling_sums(codes, W_dec, x, x_hat, centre), W_dec), codes.dense(LATENTS).double()
    for latent in range(LATENTS - 1):
        contribution = (f[:, latent, None] * W_dec[latent].double()).reshape(-1, 1)
        for target, scale in ((x - x_hat, found.on_error), (x_hat - centre, found.on_reconstruction)):
            expected = torch.linalg.lstsq(contribution, target.double().reshape(-1, 1)).solution
            torch.testing.assert_close(scale[latent], expected[0, 0], rtol=1e-5, atol=1e-6)


def test_a_latent_that_never_fires_has_no_scale() -> None:
    codes, W_dec, x, x_hat = world()
    found = scaling(scaling_sums(codes, W_dec, x, x_hat, torch.zeros(D)), W_dec)
    assert all(values[LATENTS - 1].isnan() for values in found)


@pytest.mark.parametrize("explained", [0.0, 0.3, 1.0])
def test_the_unexplained_share_is_what_the_frozen_sae_leaves(explained: float) -> None:
    codes, _, _, _ = world()
    W_dec = torch.linalg.qr(torch.randn(LATENTS + 5, LATENTS, generator=torch.Generator().manual_seed(2)))[0].T.contiguous()
    f, offset = codes.dense(LATENTS), 3 * torch.ones(LATENTS + 5)
    x, share = f @ W_dec + offset, torch.ones(LATENTS)
    share[4] = explained
    x_hat = (f * share) @ W_dec + offset
    found = scaling(scaling_sums(codes, W_dec, x, x_hat, offset), W_dec)
    assert float(found.unexplained[4]) == pytest.approx(1 - explained, abs=1e-5)
    assert float(found.on_error[4] + found.on_reconstruction[4]) == pytest.approx(1, abs=1e-5)
    assert float(found.unexplained[3]) == pytest.approx(0, abs=1e-5)


def test_the_unit_of_activations_and_directions_drops_out_of_the_share() -> None:
    codes, W_dec, x, x_hat = world()
    once = scaling(scaling_sums(codes, W_dec, x, x_hat, torch.zeros(D)), W_dec).unexplained
    other = scaling(
        scaling_sums(codes._replace(values=8 * codes.values), 2 * W_dec, x, x_hat, torch.zeros(D)), 2 * W_dec
    ).unexplained
    torch.testing.assert_close(once, other, equal_nan=True)
    assert (~once.isnan()).sum() > 5


def test_a_stream_equals_one_batch() -> None:
    codes, W_dec, x, x_hat = world()
    centre, dense = torch.full((D,), 4.0), codes.latents.view(ROWS, K)
    parts = [
        scaling_sums(equally_many(dense[i], codes.values.view(ROWS, K)[i]), W_dec, x[i], x_hat[i], centre)
        for i in torch.randperm(ROWS, generator=torch.Generator().manual_seed(0)).split(23)
    ]
    whole = scaling_sums(codes, W_dec, x, x_hat, centre)
    for mine, theirs in zip(functools.reduce(ScalingSums.__add__, parts), whole, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


def test_rows_without_active_latents_sum_to_nothing() -> None:
    codes = Codes(torch.zeros(4, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    sums = scaling_sums(codes, torch.ones(LATENTS, D), torch.ones(3, D), torch.ones(3, D), torch.zeros(D))
    assert all(bool((values == 0).all()) for values in sums)
