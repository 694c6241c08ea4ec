"""A bottleneck that starts at its target: scaled by data, as sparse as asked for."""

from pathlib import Path

import pytest
import torch

from sae_core.models.step_sae import StepSAE, uncentred_bias
from sae_core.training.step_start import centre_codes, start_at_target, threshold
from workflow.step_saes import fresh_step_sae
from workflow.step_tokens import step_tokenizer


def made(base: Path, factor: int = 1) -> StepSAE:
    torch.manual_seed(0)
    return fresh_step_sae(base, factor=factor, blocks=1, vocab=step_tokenizer(base).vocab)


def states(model: StepSAE, steps: int = 300) -> torch.Tensor:
    """Much that all share, and little that differs, in a few directions above all."""
    draw = torch.Generator().manual_seed(1)
    strength = torch.logspace(0, -2, model.d_model)
    return 5 + 0.1 * strength * torch.randn(steps, model.d_model, generator=draw)


@pytest.mark.parametrize("factor", [1, 3])
@pytest.mark.parametrize("target", [1.5, 3.0, 4.5])
def test_codes_start_at_the_target_and_differ(tiny_qwen2: Path, factor: int, target: float) -> None:
    model = made(tiny_qwen2, factor)
    given = states(model)
    with torch.no_grad():
        before = model.code(given)
        start_at_target(model, given, target)
        after = model.code(given)
        raw = model.autoencoder.encoder(given - model.autoencoder.centre) + model.autoencoder.latent_bias
    assert float(after.sum(1).mean()) == pytest.approx(target, rel=1e-3)
    assert float((before - before.mean(0)).square().sum() / before.square().sum()) < 0.01
    assert float((after - after.mean(0)).square().sum() / after.square().sum()) > 0.3
    torch.testing.assert_close(raw.std(0), torch.ones(model.d_code), rtol=1e-3, atol=1e-3)
    assert float(raw.mean(0).std()) < 1e-3


def test_soft_tokens_are_centred_and_as_large_as_normalised_states(tiny_qwen2: Path) -> None:
    model = made(tiny_qwen2, 2)
    given = states(model)
    start_at_target(model, given, 3.0)
    with torch.no_grad():
        soft = model.soft_tokens(model.code(given)).flatten(1)
    assert float(soft.std(0).square().mean().sqrt()) == pytest.approx(1.0, rel=1e-3)
    assert float(soft.mean(0).abs().max()) < 1e-4


def test_codes_without_the_centre_are_the_same(tiny_qwen2: Path) -> None:
    model = made(tiny_qwen2)
    given = states(model)
    start_at_target(model, given, 3.0)
    bottleneck = model.autoencoder
    with torch.no_grad():
        centred = model.code(given)
        assert bottleneck.centre is not None
        bottleneck.latent_bias.copy_(uncentred_bias(bottleneck.encoder.weight, bottleneck.latent_bias, bottleneck.centre))
        bottleneck.centre = None
        torch.testing.assert_close(model.code(given), centred, rtol=1e-3, atol=1e-4)


def test_centring_leaves_codes_as_they_are(tiny_qwen2: Path) -> None:
    model = made(tiny_qwen2)
    given = states(model)
    with torch.no_grad():
        model.autoencoder.latent_bias.normal_()
        before = model.code(given)
        centre_codes(model.autoencoder, given[:200])
        torch.testing.assert_close(model.code(given), before, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.autoencoder.centre, given[:200].mean(0))


def test_a_lower_target_has_a_higher_threshold() -> None:
    scores = torch.randn(200, 64, generator=torch.Generator().manual_seed(0))
    found = [threshold(scores, target) for target in (1.2, 2.0, 4.0, 7.9)]
    assert found == sorted(found, reverse=True)


def test_what_cannot_be_is_refused(tiny_qwen2: Path) -> None:
    model = made(tiny_qwen2)
    with pytest.raises(ValueError, match=r"must be below 8.*the target is 9"):
        threshold(torch.randn(50, 64), 9.0)
    same = states(model, 1).expand(20, -1)
    for few in (states(model, 1), same, same + 1e-7 * torch.randn(same.shape, generator=torch.Generator().manual_seed(0))):
        with pytest.raises(ValueError, match="two steps or more whose states differ"):
            start_at_target(model, few, 3.0)
