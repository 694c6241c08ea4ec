"""One update, and two hundred, against dense autograd."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from sae_core.config import SAEConfig, TrainingConfig
from sae_core.kernels import reference
from sae_core.models.topk import PARAMETERS, TopKSAE, initial
from sae_core.training.update import backward, make_optimiser, step

NONE = torch.zeros(0, dtype=torch.int64)


def planted_rows(count: int, d_model: int = 24, directions: int = 40, seed: int = 0) -> Tensor:
    """Sums of three of a few unit directions, an offset, a little noise."""
    draw = torch.Generator().manual_seed(99)
    dictionary = functional.normalize(torch.randn(directions, d_model, generator=draw), dim=1)
    draw = torch.Generator().manual_seed(seed)
    latents = torch.randint(directions, (count, 3), generator=draw)
    amplitudes = 1 + torch.rand(count, 3, generator=draw)
    rows = functional.embedding_bag(latents, dictionary, per_sample_weights=amplitudes, mode="sum")
    return 5 * (rows + 0.4 + 0.01 * torch.randn(rows.shape, generator=draw))


def training(**changes: object) -> TrainingConfig:
    return TrainingConfig(**{"lr": 3e-3, "updates": 200, "updates_per_epoch": 50, "batch": 32, "aux_coef": 0.0} | changes)  # type: ignore[arg-type]


def fresh(k: int = 4, d_sae: int = 128, activation: str = "relu", rows: Tensor | None = None) -> TopKSAE:
    """A new SAE whose biases are not 0."""
    rows = planted_rows(64) if rows is None else rows
    sae = initial(SAEConfig(rows.shape[1], d_sae, k, activation), rows, seed=3)  # type: ignore[arg-type]
    draw = torch.Generator().manual_seed(4)
    with torch.no_grad():
        sae.b_enc += 0.1 * torch.randn(d_sae, generator=draw)
        sae.W_enc += 0.1 * torch.randn(sae.W_enc.shape, generator=draw)
        sae.b_dec += 0.1 * torch.randn(sae.b_dec.shape, generator=draw)
    return sae


def dense_loss(sae: TopKSAE, parameters: list[Tensor], x: Tensor, config: TrainingConfig, dead: Tensor) -> Tensor:
    """The whole loss by dense operations in the precision of the parameters; the main loss alone where `dead` is empty."""
    W_enc, W_dec, b_enc, b_dec, b_pre = parameters
    scaled = x.to(W_enc) / sae.scale.to(W_enc)
    codes = reference.codes(scaled, W_enc, b_enc, b_pre, sae.config.k, sae.relu)
    x_hat = reference.reconstruction(codes, W_dec, b_dec)
    loss = (x_hat - scaled).square().mean()
    if len(dead):
        mask = torch.zeros(sae.config.d_sae, dtype=torch.bool).index_fill(0, dead, True)
        aux = reference.auxiliary_loss(
            scaled, x_hat, (W_enc, W_dec, b_enc, b_dec, b_pre), mask, config.aux_k, sae.relu, config.aux_target
        )
        loss = loss + config.aux_coef * aux
    return loss


def true_gradients(sae: TopKSAE, x: Tensor, config: TrainingConfig, dead: Tensor = NONE) -> tuple[Tensor, ...]:
    parameters = [getattr(sae, name).detach().double().requires_grad_() for name in PARAMETERS]
    return torch.autograd.grad(dense_loss(sae, parameters, x, config, dead), parameters)


def check_gradients(sae: TopKSAE, x: Tensor, config: TrainingConfig, dead: Tensor = NONE) -> None:
    backward(sae, x, config, dead)
    for name, truth in zip(PARAMETERS, true_gradients(sae, x, config, dead), strict=True):
        found = getattr(sae, name).grad.double()
        assert float((found - truth).norm() / truth.norm().clamp_min(1e-9)) < 1e-5, name


@pytest.mark.parametrize("activation", ["relu", "signed"])
@pytest.mark.parametrize(("batch", "k", "d_sae"), [(32, 4, 128), (1, 4, 128), (7, 1, 37), (32, 128, 128), (3, 60, 96)])
def test_gradients_equal_dense_double_precision_autograd(activation: str, batch: int, k: int, d_sae: int) -> None:
    check_gradients(fresh(k, d_sae, activation), planted_rows(batch, seed=5), training())


def test_latents_behind_the_relu_get_no_gradient() -> None:
    sae = fresh(k=60, d_sae=96)
    with torch.no_grad():
        sae.b_enc -= 1.5
    x = planted_rows(32, seed=5)
    values = sae.encode(x).values
    assert bool((values == 0).any(1).all()), "every row must have fewer than k positive pre-activations"
    check_gradients(sae, x, training())


@pytest.mark.parametrize("activation", ["relu", "signed"])
@pytest.mark.parametrize("target", ["residual", "input"])
@pytest.mark.parametrize("aux_k", [5, 500])
def test_aux_gradients_equal_dense_autograd_in_every_parameter(activation: str, target: str, aux_k: int) -> None:
    sae, x, dead = fresh(activation=activation), planted_rows(32, seed=5), torch.tensor([3, 17, 18, 40, 77, 90, 91, 127])
    config = training(aux_coef=0.5, aux_k=aux_k, aux_target=target)
    check_gradients(sae, x, config, dead)
    with_aux = [getattr(sae, name).grad.clone() for name in PARAMETERS]
    backward(sae, x, training(), NONE)
    assert float((with_aux[0][dead] - sae.W_enc.grad[dead]).norm()) > 1e-3, "AuxK must reach the encoder"
    assert float((with_aux[2][dead] - sae.b_enc.grad[dead]).norm()) > 1e-3


def test_fired_counts_active_latents_only() -> None:
    sae, x = fresh(k=60, d_sae=96), planted_rows(32, seed=5)
    with torch.no_grad():
        sae.b_enc -= 1.5
    assert torch.equal(backward(sae, x, training(), NONE).fired, (sae.encode_dense(x) != 0).sum(0))


def test_the_loss_is_the_error_in_scaled_units() -> None:
    sae, x = fresh(), planted_rows(32, seed=5)
    expected = (sae(x) - x).square().mean() / sae.scale.square()
    torch.testing.assert_close(backward(sae, x, training(), NONE).loss, expected.detach())


@pytest.mark.parametrize("activation", ["relu", "signed"])
def test_two_hundred_updates_stay_with_dense_autograd_in_loss_and_selected_sets(activation: str) -> None:
    config = training()
    ours = fresh(activation=activation)
    theirs = [tensor.clone().requires_grad_() for tensor in (getattr(ours, name).detach() for name in PARAMETERS)]
    dense = torch.optim.Adam(theirs, lr=config.lr)
    optimiser = make_optimiser(ours, config)
    for update in range(config.updates):
        x = planted_rows(config.batch, seed=update)
        dense.zero_grad()
        loss = dense_loss(ours, theirs, x, config, NONE)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs, config.grad_clip)
        dense.step()
        with torch.no_grad():
            theirs[1] /= theirs[1].norm(dim=1, keepdim=True)
        found = backward(ours, x, config, NONE).loss
        step(ours, optimiser, config.lr, config.grad_clip)
        torch.testing.assert_close(found, loss.detach(), rtol=1e-3, atol=1e-7)
    x = planted_rows(256, seed=1000)
    with torch.no_grad():
        W_enc, _, b_enc, _, b_pre = theirs
        z = (x / ours.scale - b_pre) @ W_enc.T + b_enc
    same = ours.encode(x).indices.sort(1).values == z.topk(ours.config.k).indices.sort(1).values
    assert float(same.all(1).float().mean()) > 0.98


def test_the_global_norm_is_clipped() -> None:
    sae, x, config = fresh(), planted_rows(32, seed=5), training()
    optimiser = make_optimiser(sae, config)
    backward(sae, x, config, NONE)
    before = torch.nn.utils.get_total_norm([getattr(sae, name).grad for name in PARAMETERS])
    step(sae, optimiser, config.lr, grad_clip=float(before) / 10)
    after = torch.nn.utils.get_total_norm([getattr(sae, name).grad for name in PARAMETERS])
    torch.testing.assert_close(after, before / 10, rtol=1e-4, atol=0.0)


def test_decoder_rows_keep_norm_one() -> None:
    sae, config = fresh(), training()
    optimiser = make_optimiser(sae, config)
    for update in range(5):
        backward(sae, planted_rows(32, seed=update), config, NONE)
        step(sae, optimiser, 0.1, 1.0)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(128))


def test_updates_are_repeatable_to_the_bit() -> None:
    results = []
    for _ in range(2):
        sae, config = fresh(), training(aux_coef=0.5, aux_k=4)
        optimiser = make_optimiser(sae, config)
        for update in range(10):
            backward(sae, planted_rows(32, seed=update), config, torch.tensor([1, 5, 70]))
            step(sae, optimiser, config.lr, 1.0)
        results.append(sae.tensors())
    for name in results[0]:
        assert torch.equal(results[0][name], results[1][name])
