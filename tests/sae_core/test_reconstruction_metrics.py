"""Properties that every reconstruction error of ours must have."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_core.metrics.reconstruction import (
    ReconstructionSums,
    mean_l0,
    mean_squared_error,
    nmse,
    nmse_anchored,
    nmse_pooled,
    nmse_raw,
    nmse_rowwise,
    reconstruction_sums,
    variance,
)

PROMPTS = 7


@functools.cache
def data(rows: int = 301, d_model: int = 12) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows with very unlike dimensions and a large offset, imperfect reconstructions, and prompts in mixed order."""
    draw = torch.Generator().manual_seed(1)
    spread = torch.logspace(-1, 1.5, d_model, dtype=torch.float64)
    x = torch.randn(rows, d_model, generator=draw, dtype=torch.float64) * spread + 20 * spread.flip(0)
    x_hat = x + 0.3 * torch.randn(rows, d_model, generator=draw, dtype=torch.float64)
    return x, x_hat, torch.randint(PROMPTS, (rows,), generator=draw)


def sums(x: torch.Tensor, x_hat: torch.Tensor, prompt: torch.Tensor, centre: torch.Tensor | None = None) -> ReconstructionSums:
    return reconstruction_sums(x, x_hat, prompt, PROMPTS, x[:5].mean(0) if centre is None else centre)


def close(a: torch.Tensor, b: torch.Tensor | float, rtol: float = 1e-9) -> None:
    torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b, dtype=torch.float64), rtol=rtol, atol=1e-12)


def test_a_perfect_reconstruction_has_error_zero() -> None:
    x, _, prompt = data()
    perfect = sums(x, x, prompt)
    assert [float(f(perfect)) for f in (nmse, nmse_pooled, nmse_raw, nmse_rowwise, mean_squared_error)] == [0] * 5


def test_the_mean_predictor_has_nmse_one_and_the_other_conventions_do_not() -> None:
    x, _, prompt = data()
    mean = sums(x, x.mean(0).expand_as(x), prompt)
    close(nmse(mean), 1.0)
    assert nmse_raw(mean) < 0.5
    assert nmse_pooled(mean) < 0.9


def test_each_convention_equals_its_definition() -> None:
    x, x_hat, prompt = data()
    s, e2, centre = sums(x, x_hat, prompt), (x - x_hat).square(), x[:5].mean(0)
    close(nmse(s), e2.sum() / (x - x.mean(0)).square().sum())
    close(nmse_pooled(s), e2.mean() / x.var(correction=0))
    close(nmse_raw(s), e2.sum() / x.square().sum())
    close(nmse_rowwise(s), (e2.sum(1) / (x - centre).square().sum(1)).mean())
    close(variance(s), x.var(0, correction=0).sum())
    close(mean_squared_error(s), e2.sum(1).mean())


def test_shifting_rows_and_reconstructions_together_changes_nothing() -> None:
    x, x_hat, prompt = data()
    close(nmse(sums(x + 1000, x_hat + 1000, prompt)), nmse(sums(x, x_hat, prompt)), rtol=1e-7)


def test_scaling_rows_and_reconstructions_together_changes_nothing() -> None:
    x, x_hat, prompt = data()
    for measure in (nmse, nmse_pooled, nmse_raw, nmse_rowwise):
        close(measure(sums(37 * x, 37 * x_hat, prompt)), measure(sums(x, x_hat, prompt)))


def test_a_constant_offset_of_the_reconstruction_is_not_forgiven() -> None:
    x, x_hat, prompt = data()
    expected = ((x - x_hat) - 5).square().sum() / (x - x.mean(0)).square().sum()
    close(nmse(sums(x, x_hat + 5, prompt)), expected)


def test_the_order_of_rows_does_not_matter() -> None:
    x, x_hat, prompt = data()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(2))
    centre = x[:5].mean(0)
    for before, after in zip(sums(x, x_hat, prompt, centre), sums(x[order], x_hat[order], prompt[order], centre), strict=True):
        close(after, before, rtol=1e-11)


@settings(max_examples=25, deadline=None)
@given(size=st.integers(1, 301))
def test_streaming_in_batches_of_any_size_equals_all_at_once(size: int) -> None:
    x, x_hat, prompt = data()
    centre = x[:5].mean(0)
    stream = ReconstructionSums.zeros(PROMPTS, x.shape[1])
    for part in torch.arange(len(x)).split(size):
        stream = stream + sums(x[part], x_hat[part], prompt[part], centre)
    for streamed, whole in zip(stream, sums(x, x_hat, prompt, centre), strict=True):
        close(streamed, whole, rtol=1e-11)


def test_the_centre_prevents_cancellation_and_drops_out() -> None:
    x, x_hat, prompt = data()
    close(nmse(sums(x, x_hat, prompt, torch.zeros(12))), nmse(sums(x, x_hat, prompt)), rtol=1e-8)
    single = x.float() + 2.0**12
    close(nmse(sums(single, x_hat.float() + 2.0**12, prompt)), nmse(sums(x, x_hat, prompt)), rtol=0.02)


def test_rows_in_single_precision_give_the_double_precision_error() -> None:
    x, x_hat, prompt = data()
    close(nmse(sums(x.float(), x_hat.float(), prompt)), nmse(sums(x, x_hat, prompt)), rtol=1e-5)


def test_bootstrap_weights_count_prompts_like_repeated_rows() -> None:
    x, x_hat, prompt = data()
    times = torch.tensor([2, 0, 1, 3, 1, 1, 0])
    rows = torch.repeat_interleave(torch.arange(len(x)), times[prompt])
    s, again = sums(x, x_hat, prompt), sums(x[rows], x_hat[rows], prompt[rows], x[:5].mean(0))
    weights = torch.stack([times, torch.ones_like(times)])
    for measure in (nmse, nmse_pooled, nmse_raw, nmse_rowwise, variance, mean_squared_error):
        replicates = measure(s, weights)
        assert replicates.shape == (2,)
        close(replicates, torch.stack([measure(again), measure(s)]))


def test_the_anchored_error_divides_by_the_variance_of_the_anchor() -> None:
    x, x_hat, prompt = data()
    base = sums(2 * x, 2 * x_hat, prompt)
    close(nmse_anchored(sums(x, x_hat, prompt), base), nmse(sums(x, x_hat, prompt)) / 4)


def test_active_latents_are_averaged_over_rows() -> None:
    x, x_hat, prompt = data()
    active = torch.arange(len(x)) % 5
    s = reconstruction_sums(x, x_hat, prompt, PROMPTS, x.mean(0), active)
    close(mean_l0(s), active.double().mean())


def test_a_prompt_without_rows_stays_empty() -> None:
    x, x_hat, prompt = data()
    keep = (prompt != 3) & (prompt != 6)
    s = sums(x[keep], x_hat[keep], prompt[keep])
    assert s.n[3] == s.n[6] == s.sse[6] == 0
    assert s.xc[3].abs().sum() == 0
    assert int(s.n.sum()) == int(keep.sum())


def test_shapes_that_do_not_fit_are_refused_in_tests() -> None:
    import sae_core.metrics.reconstruction as module

    if not hasattr(module.reconstruction_sums, "__wrapped__"):
        pytest.skip("sae_core was imported before the shape checks could be installed")
    x, x_hat, prompt = data()
    with pytest.raises(TypeError):
        reconstruction_sums(x, x_hat[:, :5], prompt, PROMPTS, x.mean(0))
