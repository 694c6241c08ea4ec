"""One update of every kind, and two hundred, against dense autograd."""

import pytest
import torch
from small_saes import D_SAE, configs, dense_loss, doubled, fresh, planted_rows, training, true_gradients
from torch import Tensor

from sae_core.config.sae import BatchTopKConfig, SAEConfig, TopKConfig
from sae_core.config.training import TrainingConfig
from sae_core.kernels.backend import Gradient
from sae_core.kernels.gradient import RowGradient
from sae_core.kernels.torch_backend import TorchBackend
from sae_core.models.sae import SAE
from sae_core.training.optimiser import Optimiser
from sae_core.training.update import Batch, backward, step

NONE = torch.zeros(0, dtype=torch.int64)
KINDS = dict(configs())
SELECTING = [name for name in KINDS if "topk" in name or name == "matryoshka"]


def optimiser_of(sae: SAE) -> Optimiser:
    return Optimiser(sae, TorchBackend(torch.device("cpu")))


def update_of(sae: SAE, x: Tensor, config: TrainingConfig, dead: Tensor = NONE) -> Batch:
    return backward(sae, x, config, optimiser_of(sae), dead)


def written(gradient: Gradient) -> Tensor:
    return gradient.written_out() if isinstance(gradient, RowGradient) else gradient


def check_gradients(sae: SAE, x: Tensor, config: TrainingConfig, dead: Tensor = NONE) -> None:
    found = update_of(sae, x, config, dead).gradients
    truths = true_gradients(sae, x, config, dead if len(dead) else None)
    assert set(found) == set(truths)
    for name, truth in truths.items():
        assert float((written(found[name]).double() - truth).norm() / truth.norm().clamp_min(1e-9)) < 1e-5, name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pre_bias", ["own", "decoder", "none"])
@pytest.mark.parametrize("normalise", ["scale", "row_norm", "layer_norm"])
def test_gradients_equal_double_precision_autograd_under_every_convention(kind: str, pre_bias: str, normalise: str) -> None:
    config = dict(configs(pre_bias=pre_bias, normalise=normalise))[kind]
    check_gradients(fresh(config), planted_rows(32, seed=5), training())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("batch", "k", "d_model", "d_sae"), [(1, 4, 24, 128), (7, 1, 13, 37), (32, 96, 24, 96), (3, 60, 24, 96), (5, 1, 3, 1)]
)
def test_gradients_equal_autograd_at_odd_sizes(kind: str, batch: int, k: int, d_model: int, d_sae: int) -> None:
    config = dict(configs(d_model, d_sae, k))[kind]
    check_gradients(fresh(config), planted_rows(batch, d_model, seed=5), training())


@pytest.mark.parametrize("kind", KINDS)
def test_sparse_and_dense_supports_give_the_same_gradients(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sae, x, found = fresh(KINDS[kind]), planted_rows(32, seed=5), []
    for share in (-1.0, 2.0):
        optimiser = optimiser_of(sae)
        optimiser.backend.dense_from = share
        batch = backward(sae, x, training(), optimiser, NONE)
        found.append({name: written(gradient) for name, gradient in batch.gradients.items()} | {"fired": batch.fired})
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("changes", [{"unit_decoder": False}, {"unit_decoder": True}])
def test_the_price_of_free_decoder_rows_is_paid_by_their_norm(changes: dict[str, bool]) -> None:
    sae = fresh(KINDS["relu"])
    with torch.no_grad():
        sae.W_dec *= 1 + torch.rand(D_SAE, 1)
    check_gradients(sae, planted_rows(32, seed=5), training(**changes))


@pytest.mark.parametrize("target", [None, 5.0, 50.0])
def test_jumprelu_learns_its_thresholds_from_price_or_target(target: float | None) -> None:
    check_gradients(fresh(KINDS["jumprelu"]), planted_rows(32, seed=5), training(target_l0=target, sparsity_coef=0.3))


def test_latents_behind_the_relu_get_no_gradient() -> None:
    sae = fresh(dict(configs(k=60))["topk_relu"])
    with torch.no_grad():
        sae.b_enc -= 1.5
    x = planted_rows(32, seed=5)
    assert bool((sae.encode(x).active_per_row() < 60).all()), "every row must have fewer than k positive pre-activations"
    check_gradients(sae, x, training())


@pytest.mark.parametrize("kind", SELECTING)
@pytest.mark.parametrize("target", ["residual", "input"])
@pytest.mark.parametrize("aux_k", [5, 500])
def test_aux_gradients_equal_dense_autograd_in_every_parameter(kind: str, target: str, aux_k: int) -> None:
    sae, x, dead = fresh(KINDS[kind]), planted_rows(32, seed=5), torch.tensor([3, 17, 18, 40, 77, 90, 91, 95])
    config = training(aux_coef=0.5, aux_k=aux_k, aux_target=target)
    check_gradients(sae, x, config, dead)
    with_aux, without = update_of(sae, x, config, dead).gradients, update_of(sae, x, training()).gradients
    for name in ("W_enc", "b_enc"):
        assert float((written(with_aux[name])[dead] - written(without[name])[dead]).norm()) > 1e-3, "AuxK must reach the encoder"


@pytest.mark.parametrize("kind", [name for name in KINDS if name not in ("topk_signed", "topk_absolute")])
def test_nothing_active_gives_no_gradient_but_that_of_the_bias(kind: str) -> None:
    sae, x = fresh(KINDS[kind]), planted_rows(8, seed=5)
    with torch.no_grad():
        (sae.b_gate if kind == "gated" else sae.b_enc).fill_(-1e3)
    batch = update_of(sae, x, training())
    assert int(batch.fired.sum()) == 0
    assert float(written(batch.gradients["W_enc"]).abs().max()) == 0
    assert float(written(batch.gradients["W_dec"]).abs().max()) == 0
    assert float(batch.gradients["b_dec"].abs().max()) > 0


@pytest.mark.parametrize("kind", [name for name in KINDS if name not in ("batchtopk", "matryoshka")])
def test_fired_counts_active_latents_only(kind: str) -> None:
    sae, x = fresh(KINDS[kind]), planted_rows(32, seed=5)
    assert torch.equal(update_of(sae, x, training()).fired, (sae.encode_dense(x) != 0).sum(0))


@pytest.mark.parametrize("kind", ["batchtopk", "matryoshka"])
def test_the_threshold_follows_the_smallest_kept_activation(kind: str) -> None:
    sae, x, config = fresh(KINDS[kind]), planted_rows(32, seed=5), training(threshold_rate=0.25)
    optimiser = optimiser_of(sae)
    first = backward(sae, x, config, optimiser, NONE)
    assert int(first.fired.sum()) == 32 * 6
    step(sae, optimiser, first, 0.0, config)
    assert float(sae.threshold) == float(first.smallest)
    second = backward(sae, planted_rows(32, seed=6), config, optimiser, NONE)
    step(sae, optimiser, second, 0.0, config)
    assert float(sae.threshold) == pytest.approx(0.75 * float(first.smallest) + 0.25 * float(second.smallest))


@pytest.mark.parametrize("kind", ["topk_relu", "topk_signed", "topk_absolute"])
def test_the_loss_is_the_error_in_scaled_units(kind: str) -> None:
    sae, x = fresh(KINDS[kind]), planted_rows(32, seed=5)
    expected = (sae(x) - x).square().mean() / sae.scale.square()
    torch.testing.assert_close(update_of(sae, x, training()).loss, expected.detach())


@pytest.mark.parametrize("kind", KINDS)
def test_two_hundred_updates_stay_with_dense_autograd(kind: str) -> None:
    config, ours = training(lr=1e-3), fresh(KINDS[kind])
    theirs = {name: tensor.detach().float().requires_grad_() for name, tensor in doubled(ours).items()}
    dense, optimiser = torch.optim.Adam(theirs.values(), lr=config.lr), optimiser_of(ours)
    for update in range(config.updates):
        x = planted_rows(config.batch, seed=update)
        dense.zero_grad()
        dense_loss(ours, theirs, x, config).backward()
        torch.nn.utils.clip_grad_norm_(theirs.values(), config.grad_clip)
        dense.step()
        with torch.no_grad():
            theirs["W_dec"] /= theirs["W_dec"].norm(dim=1, keepdim=True)
        step(ours, optimiser, backward(ours, x, config, optimiser, NONE), config.lr, config)
    for name, tensor in theirs.items():
        apart = float((getattr(ours, name).detach() - tensor.detach()).norm() / tensor.detach().norm())
        assert apart < 2e-3, (name, apart)


@pytest.mark.parametrize("kind", [name for name in SELECTING if name != "matryoshka"])
def test_the_loss_curve_of_two_hundred_updates_is_that_of_dense_autograd(kind: str) -> None:
    config, ours = training(lr=1e-4, sparsity_coef=0.0), fresh(dict(configs(48, 384, 8))[kind])
    theirs = {name: tensor.detach().float().requires_grad_() for name, tensor in doubled(ours).items()}
    dense, optimiser = torch.optim.Adam(theirs.values(), lr=config.lr), optimiser_of(ours)
    for update in range(config.updates):
        x = planted_rows(64, 48, seed=update)
        dense.zero_grad()
        loss = dense_loss(ours, theirs, x, config)
        loss.backward()
        dense.step()
        with torch.no_grad():
            theirs["W_dec"] /= theirs["W_dec"].norm(dim=1, keepdim=True)
        batch = backward(ours, x, config, optimiser, NONE)
        step(ours, optimiser, batch, config.lr, config)
        torch.testing.assert_close(batch.loss, loss.detach(), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("share", [0.1, 10.0])
def test_the_global_norm_is_clipped_and_only_above_its_limit(share: float) -> None:
    sae, x = fresh(KINDS["topk_relu"]), planted_rows(32, seed=5)
    found = update_of(sae, x, training()).gradients
    norm = float(torch.nn.utils.get_total_norm([written(gradient) for gradient in found.values()]))
    clipped, optimiser = training(grad_clip=share * norm), optimiser_of(sae)
    step(sae, optimiser, backward(sae, x, clipped, optimiser, NONE), 1e-3, clipped)
    for name, gradient in found.items():
        first = optimiser.state_dict()["moments"][name][0]
        torch.testing.assert_close(first, 0.1 * min(1.0, share) * written(gradient), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("project", [False, True])
def test_decoder_rows_keep_norm_one_and_projection_takes_the_radial_part(project: bool) -> None:
    sae, config = fresh(KINDS["topk_relu"]), training(project_decoder=project)
    optimiser, before = optimiser_of(sae), sae.W_dec.detach().clone()
    step(sae, optimiser, backward(sae, planted_rows(32), config, optimiser, NONE), 0.1, config)
    torch.testing.assert_close(sae.W_dec.detach().norm(dim=1), torch.ones(D_SAE))
    radial = (optimiser.matrices["W_dec"].exp_avg * before).sum(1).abs().max()
    assert (float(radial) < 1e-9) is project


@pytest.mark.parametrize("config", [*KINDS.values()], ids=KINDS)
def test_a_frozen_decoder_stays_to_the_bit(config: SAEConfig) -> None:
    sae, plan = fresh(config), training(frozen_decoder=True, aux_coef=0.5, aux_k=4)
    optimiser, before = optimiser_of(sae), sae.tensors()
    step(sae, optimiser, backward(sae, planted_rows(32), plan, optimiser, torch.tensor([1, 5, 70])), 0.1, plan)
    assert torch.equal(sae.W_dec, before["W_dec"])
    assert not torch.equal(sae.W_enc, before["W_enc"])
    with pytest.raises(ValueError, match="no latent may get another direction"):
        training(frozen_decoder=True, resample_epochs=1)


@pytest.mark.parametrize("config", [*KINDS.values()], ids=KINDS)
def test_updates_are_repeatable_to_the_bit(config: SAEConfig) -> None:
    results = []
    for _ in range(2):
        sae, plan = fresh(config), training(aux_coef=0.5, aux_k=4)
        optimiser = optimiser_of(sae)
        for update in range(10):
            batch = backward(sae, planted_rows(32, seed=update), plan, optimiser, torch.tensor([1, 5, 70]))
            step(sae, optimiser, batch, plan.lr, plan)
        results.append(sae.tensors())
    for name in results[0]:
        assert torch.equal(results[0][name], results[1][name])


@pytest.mark.parametrize("kind", KINDS)
def test_products_in_bfloat16_stay_near_those_in_float32(kind: str) -> None:
    sae, x = fresh(KINDS[kind]), planted_rows(64, seed=5)
    exact, rounded = (update_of(sae, x, training(precision=precision)) for precision in ("fp32", "bf16"))
    assert float(rounded.loss) == pytest.approx(float(exact.loss), rel=0.05)
    assert float(rounded.loss) != float(exact.loss)


def test_k_beyond_the_latents_is_refused() -> None:
    with pytest.raises(ValueError, match="k must be at most d_sae = 8; got 9"):
        TopKConfig(d_model=4, d_sae=8, k=9)
    with pytest.raises(ValueError, match="k must be at least 1"):
        BatchTopKConfig(d_model=4, d_sae=8, k=0)
