"""Re-initialised latents lower the error at once, of every kind, and a training with them ends no worse than one without."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from sae_core.config.crosscoder import CrosscoderConfig
from sae_core.config.sae import BatchTopKConfig, GatedConfig, JumpReLUConfig, MatryoshkaConfig, ReluConfig, SAEConfig, TopKConfig
from sae_core.config.training import TrainingConfig
from sae_core.kernels.torch_backend import TorchBackend
from sae_core.models.build import initial
from sae_core.models.crosscoder import initial_crosscoder
from sae_core.models.sae import SAE
from sae_core.training.in_memory import batches_of, quality_on
from sae_core.training.optimiser import Optimiser
from sae_core.training.parallel import ALONE
from sae_core.training.resample import resample_dead
from sae_core.training.revival import best_parameter, find_latents
from sae_core.training.trainer import Trainer

WIDTH, LATENTS, ALIVE = 16, 96, 24
SHAPE: dict[str, Any] = {"d_model": WIDTH, "d_sae": LATENTS}
KINDS: dict[str, SAEConfig] = {
    "topk": TopKConfig(k=4, **SHAPE),
    "topk_decoder_norm": TopKConfig(k=4, decoder_norm=True, **SHAPE),
    "topk_signed": TopKConfig(k=4, keep="signed", **SHAPE),
    "topk_absolute": TopKConfig(k=4, keep="absolute", **SHAPE),
    "topk_row_norm": TopKConfig(k=4, normalise="row_norm", **SHAPE),
    "batchtopk": BatchTopKConfig(k=4, **SHAPE),
    "matryoshka": MatryoshkaConfig(k=4, widths=(24, LATENTS), **SHAPE),
    "relu": ReluConfig(**SHAPE),
    "jumprelu": JumpReLUConfig(pre_bias="none", **SHAPE),
    "gated": GatedConfig(**SHAPE),
    "crosscoder": CrosscoderConfig(d_model=WIDTH, stages=2, d_sae=LATENTS, k=4),
}
OWN: dict[str, dict[str, Any]] = {
    "relu": {"sparsity_coef": 0.02},
    "jumprelu": {"sparsity_coef": 0.3, "target_l0": 4.0},
    "gated": {"sparsity_coef": 0.02},
}
TRAINING = TrainingConfig(
    lr=5e-3, updates=90, updates_per_epoch=30, batch=64, aux_coef=0.0, dead_rate=2e-3, bandwidth=0.5, threshold_rate=0.1,
    threshold_lr_multiple=10.0, keep_epoch="last",
)  # fmt: skip


def planted(count: int, seed: int) -> Tensor:
    """Rows much alike, as those of a residual stream: four of 60 directions on a mean larger than they are."""
    draw = torch.Generator().manual_seed(7)
    directions, mean = normalize(torch.randn(60, WIDTH, generator=draw), dim=1), 2 * torch.randn(WIDTH, generator=draw)
    draw = torch.Generator().manual_seed(seed)
    active = torch.rand(count, 60, generator=draw).topk(4, dim=1).indices
    common, own = mean * (0.5 + torch.rand(count, 1, generator=draw)), torch.rand(count, 4, 1, generator=draw) * directions[active]
    return common + 2 * own.sum(1)


ROWS, HELD_OUT = planted(1500, 1), planted(300, 2)


def fresh(kind: str) -> SAE:
    """An SAE most of whose latents never fire."""
    config = KINDS[kind]
    sae = initial_crosscoder(config, ROWS, 0) if isinstance(config, CrosscoderConfig) else initial(config, ROWS, 0, threshold=0.5)
    with torch.no_grad():
        for name, shape in sae.own_shapes(config).items():
            if name != "threshold" and shape == (LATENTS,):
                getattr(sae, name)[ALIVE:] = 0.0 if kind == "topk_absolute" or name == "r_mag" else -50.0
        if kind == "topk_absolute":
            sae.W_enc[ALIVE:] = 0.0
    return sae


def trained(kind: str, **changes: Any) -> Trainer:
    plan = replace(TRAINING, unit_decoder=kind != "crosscoder", **OWN.get(kind, {}), **changes)
    trainer = Trainer(fresh(kind), plan)
    trainer.run(batches_of(ROWS, plan.batch, seed=3), quality_on(HELD_OUT))
    return trainer


def errors(sae: SAE) -> Tensor:
    """Squared error of each row, in the units that are trained on."""
    with torch.no_grad():
        return ((ROWS - sae(ROWS)) / sae.normalised(ROWS).size).square().sum(1)


def dead_of(sae: SAE) -> Tensor:
    with torch.no_grad():
        return (sae.encode_dense(ROWS) != 0).sum(0) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_right_after_re_initialisation_the_error_is_lower(kind: str) -> None:
    sae = trained(kind, updates=30).sae
    dead, before = dead_of(sae), errors(sae)
    assert int(dead.sum()) > LATENTS // 2
    changed = resample_dead(sae, Optimiser(sae, TorchBackend(torch.device("cpu"))), dead, ROWS, TRAINING, seed=5)
    assert len(changed) > 10
    assert float(errors(sae).sum()) < 0.95 * float(before.sum())


@pytest.mark.parametrize("kind", ["topk", "batchtopk", "relu", "jumprelu", "gated"])
def test_a_training_with_re_initialisation_ends_no_worse_than_one_without(kind: str) -> None:
    without, with_it = trained(kind).history[-1], trained(kind, resample_epochs=1).history[-1]
    assert with_it.nmse < without.nmse
    assert with_it.dead_share < without.dead_share - 0.1


def test_what_is_told_of_a_latent_is_what_the_sae_then_does() -> None:
    sae = trained("jumprelu", updates=30).sae
    dead, before = first_of(dead_of(sae)), errors(sae)
    least = float(sae.threshold.detach()[~dead].median())  # type: ignore[union-attr, operator]  # jumprelu has one
    with torch.no_grad():
        found = find_latents(sae, ROWS, 1, least, 5, ALONE)
        codes = (sae.centred(sae.normalised(ROWS).rows) @ found.encoders.T + found.biases).squeeze(1)
        codes = codes * (codes > least)
        residual = (ROWS - sae(ROWS)) / sae.normalised(ROWS).size
        after = (residual - codes.unsqueeze(1) * found.decoders).square().sum(1)
    resample_dead(sae, Optimiser(sae, TorchBackend(torch.device("cpu"))), dead, ROWS, TRAINING, seed=5)
    torch.testing.assert_close(errors(sae), after, rtol=1e-3, atol=1e-3)
    assert float(after.sum()) < float(before.sum())


def first_of(dead: Tensor) -> Tensor:
    return dead & (dead.cumsum(0) == 1)


def test_rows_alike_are_given_one_latent() -> None:
    sae = fresh("relu")
    rows = (ROWS[:1] + 20 * normalize(ROWS[1:2], dim=1)).repeat(50, 1)
    dead = dead_of(sae)
    changed = resample_dead(sae, Optimiser(sae, TorchBackend(torch.device("cpu"))), dead, rows, TRAINING, seed=5)
    assert len(changed) == 1
    assert changed[0] == dead.nonzero()[0]


def test_latents_that_wait_for_the_next_time_stay_as_they_were() -> None:
    sae = fresh("jumprelu")
    before, dead = sae.tensors(), dead_of(sae)
    changed = resample_dead(sae, Optimiser(sae, TorchBackend(torch.device("cpu"))), dead, ROWS[:5], TRAINING, seed=5)
    assert 0 < len(changed) <= 5
    waiting = torch.ones(LATENTS, dtype=torch.bool).index_fill_(0, changed, False)
    for name in ("W_enc", "W_dec", "b_enc", "threshold"):
        assert torch.equal(getattr(sae, name)[waiting], before[name][waiting])


def test_the_best_parameter_is_that_of_a_search_over_all() -> None:
    draw = torch.Generator().manual_seed(4)
    seen, wanted, least, cost = (torch.randn(40, generator=draw) for _ in range(4))

    def gain(t: float) -> float:
        fires = seen - least > t
        codes = (seen - t)[fires]
        return float((codes * (2 * wanted[fires] - codes) - cost[fires]).sum())

    found = best_parameter(seen - least, seen, torch.full_like(seen, -1.0), wanted, cost)
    assert found.gain == pytest.approx(gain(found.parameter), rel=1e-4)
    assert found.gain > max(gain(float(t)) for t in torch.linspace(-5, 5, 20001)) - 0.02
    assert sorted(found.rows.tolist()) == (seen - least > found.parameter).nonzero().squeeze(1).tolist()
