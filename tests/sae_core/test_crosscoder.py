"""Crosscoders: gradients against dense autograd, invariance to the scale of latents, and resuming to the bit."""

import dataclasses

import pytest
import torch
from torch import Tensor

from sae_core.config.crosscoder import CrosscoderConfig
from sae_core.config.training import TrainingConfig
from sae_core.kernels import reference
from sae_core.kernels.choice import choose_backend
from sae_core.kernels.gradient import RowGradient
from sae_core.kernels.torch_backend import TorchBackend
from sae_core.models.build import build
from sae_core.models.crosscoder import Crosscoder, initial_crosscoder
from sae_core.training.in_memory import batches_of, quality_on
from sae_core.training.optimiser import Optimiser
from sae_core.training.trainer import Trainer
from sae_core.training.update import backward

NONE = torch.zeros(0, dtype=torch.int64)
SETTINGS = TrainingConfig(lr=3e-3, updates=60, updates_per_epoch=20, batch=32, aux_coef=0.0, unit_decoder=False, threshold_rate=0.1)


def shape(stages: int = 3, width: int = 7, d_sae: int = 40, k: int = 4, pre_bias: str = "own") -> CrosscoderConfig:
    return CrosscoderConfig(d_model=stages * width, stages=stages, d_sae=d_sae, k=k, pre_bias=pre_bias)  # type: ignore[arg-type]  # a plain string


def joint_rows(config: CrosscoderConfig, count: int, seed: int = 0) -> Tensor:
    """Rows of stages that differ in size, have an offset, and share most of what varies."""
    draw = torch.Generator().manual_seed(seed)
    common = torch.randn(count, config.width, generator=draw)
    rows = [2.0**stage * (common + 0.3 * torch.randn(count, config.width, generator=draw) + 1) for stage in range(config.stages)]
    return torch.cat(rows, 1)


def fresh(config: CrosscoderConfig) -> Crosscoder:
    """One none of whose tensors is 0, whose stages differ, and whose latents have unlike norms."""
    crosscoder = initial_crosscoder(config, joint_rows(config, 64), seed=3)
    draw = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name in crosscoder.trained:
            tensor = getattr(crosscoder, name)
            tensor += 0.1 * torch.randn(tensor.shape, generator=draw)
        crosscoder.W_dec *= 0.2 + 2 * torch.rand(config.d_sae, 1, generator=draw)
    return crosscoder


@pytest.mark.parametrize("pre_bias", ["own", "decoder", "none"])
@pytest.mark.parametrize("sizes", [(3, 7, 40, 4), (2, 5, 9, 9), (4, 3, 64, 1)], ids=str)
def test_gradients_equal_double_precision_autograd(pre_bias: str, sizes: tuple[int, int, int, int]) -> None:
    config = shape(*sizes, pre_bias=pre_bias)
    crosscoder, x = fresh(config), joint_rows(config, 16, seed=5)
    found = backward(crosscoder, x, SETTINGS, Optimiser(crosscoder, TorchBackend(torch.device("cpu"))), NONE)
    p = {name: getattr(crosscoder, name).detach().double().requires_grad_() for name in crosscoder.trained}
    loss = reference.crosscoder_loss(x.double() / crosscoder.scale.double(), p, pre_bias, config.k, config.stages)
    torch.testing.assert_close(found.loss.double(), loss.detach(), rtol=1e-5, atol=0)
    for (name, tensor), truth in zip(p.items(), torch.autograd.grad(loss, list(p.values())), strict=True):
        gradient = found.gradients[name]
        written = gradient.written_out() if isinstance(gradient, RowGradient) else gradient
        assert float((written.double() - truth).norm() / truth.norm().clamp_min(1e-9)) < 1e-5, (name, tensor.shape)


def test_the_scale_of_a_latent_moves_no_selection_and_no_reconstruction() -> None:
    config = shape()
    crosscoder, x = fresh(config), joint_rows(config, 50, seed=1)
    with torch.no_grad():
        crosscoder.threshold.fill_(0.8)
    factors = 0.1 + 5 * torch.rand(config.d_sae, generator=torch.Generator().manual_seed(0))
    tensors = crosscoder.tensors()
    scaled = tensors | {
        "W_enc": tensors["W_enc"] * factors[:, None], "b_enc": tensors["b_enc"] * factors,
        "W_dec": tensors["W_dec"] / factors[:, None],
    }  # fmt: skip
    other = build(config, scaled)
    torch.testing.assert_close(other(x), crosscoder(x), rtol=1e-4, atol=1e-4)
    assert torch.equal(other.encode(x).latents, crosscoder.encode(x).latents)


def test_rows_of_every_stage_count_alike_whatever_their_size() -> None:
    config = shape()
    crosscoder, x = initial_crosscoder(config, joint_rows(config, 500), seed=0), joint_rows(config, 500)
    normalised = crosscoder.normalised(x).rows.view(500, config.stages, config.width)
    torch.testing.assert_close(normalised.square().mean((0, 2)), torch.ones(config.stages), rtol=1e-3, atol=0)
    torch.testing.assert_close(crosscoder.stage_norms(), torch.ones(config.d_sae, config.stages))


def test_the_threshold_keeps_about_k_latents_of_rows_outside_training() -> None:
    config = shape(k=4)
    trained = trainer(config).run(batches_of(joint_rows(config, 320), 32, seed=0), quality_on(joint_rows(config, 200, seed=9)))
    codes = build(config, trained.tensors).encode(joint_rows(config, 300, seed=8))
    assert 2.5 < float(codes.active_per_row().float().mean()) < 6


def trainer(config: CrosscoderConfig, backend: str = "torch", **changes: object) -> Trainer:
    start = initial_crosscoder(config, joint_rows(config, 320), seed=0)
    settings = dataclasses.replace(SETTINGS, **changes)  # type: ignore[arg-type]  # of many types
    return Trainer(start, settings, backend=choose_backend(backend, torch.device("cpu")))  # type: ignore[arg-type]  # a plain string


@pytest.mark.parametrize("changes", [{}, {"aux_coef": 0.03, "dead_rate": 0.1, "resample_epochs": 1}], ids=["plain", "repairs"])
def test_a_training_cut_in_two_ends_with_the_same_bits(changes: dict[str, float]) -> None:
    config = shape()
    rows, quality = joint_rows(config, 320), quality_on(joint_rows(config, 100, seed=9))
    whole = trainer(config, **changes).run(batches_of(rows, 32, seed=0), quality)
    first = trainer(config, **changes)
    for batch in batches_of(rows, 32, seed=0):
        first.advance(batch)
        if first.update % 20 == 0:
            first.end_epoch(quality(first.sae))
        if first.update == 27:
            break
    second = trainer(config, **changes)
    second.load_state_dict(first.state_dict())
    found = second.run(batches_of(rows, 32, seed=0, done=27), quality)
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in whole.tensors.items())


def test_the_native_backend_trains_to_the_same_crosscoder() -> None:
    config = shape()
    try:
        native = trainer(config, "native")
    except ValueError as error:
        pytest.skip(str(error))
    rows, quality = joint_rows(config, 320), quality_on(joint_rows(config, 100, seed=9))
    found = [one.run(batches_of(rows, 32, seed=0), quality) for one in (native, trainer(config))]
    for name in ("W_enc", "W_dec", "b_dec"):
        torch.testing.assert_close(found[0].tensors[name], found[1].tensors[name], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"stages": 1}, "at least 2 stages"), ({"d_model": 20}, "stages = 3 times"), ({"k": 41}, "at most d_sae"),
     ({"normalise": "row_norm"}, "one number per stage")],
)  # fmt: skip
def test_shapes_that_cannot_be_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(shape(), **changes)  # type: ignore[arg-type]  # of many types


def test_a_stage_of_zeros_is_refused() -> None:
    config = shape()
    rows = joint_rows(config, 10)
    rows[:, : config.width] = 0
    with pytest.raises(ValueError, match="not all 0 in any stage"):
        initial_crosscoder(config, rows, seed=0)
