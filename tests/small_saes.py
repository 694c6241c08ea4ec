"""Small SAEs of every kind, rows to train them on, and their losses by dense autograd."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from sae_core.config.sae import (
    BatchTopKConfig,
    GatedConfig,
    JumpReLUConfig,
    MatryoshkaConfig,
    ReluConfig,
    SAEConfig,
    TopKConfig,
)
from sae_core.config.training import TrainingConfig
from sae_core.kernels import reference
from sae_core.models.build import build, initial
from sae_core.models.sae import SAE

D_MODEL, D_SAE, K = 24, 96, 6


def planted_rows(count: int, d_model: int = D_MODEL, directions: int = 40, seed: int = 0) -> Tensor:
    """Sums of three of a few unit directions, an offset, a little noise."""
    draw = torch.Generator().manual_seed(99)
    dictionary = functional.normalize(torch.randn(directions, d_model, generator=draw), dim=1)
    draw = torch.Generator().manual_seed(seed)
    latents = torch.randint(directions, (count, 3), generator=draw)
    amplitudes = 1 + torch.rand(count, 3, generator=draw)
    rows = functional.embedding_bag(latents, dictionary, per_sample_weights=amplitudes, mode="sum")
    return 5 * (rows + 0.4 + 0.01 * torch.randn(rows.shape, generator=draw))


def configs(d_model: int = D_MODEL, d_sae: int = D_SAE, k: int = K, **conventions: object) -> Iterator[tuple[str, SAEConfig]]:
    """One configuration per kind and form, by name."""
    common = {"d_model": d_model, "d_sae": d_sae, **conventions}
    for keep in ("relu", "signed", "absolute"):
        yield f"topk_{keep}", TopKConfig(k=k, keep=keep, **common)
    yield "batchtopk", BatchTopKConfig(k=k, **common)
    widths = tuple(sorted({max(1, d_sae // 8), max(1, d_sae // 2), d_sae}))
    yield "matryoshka", MatryoshkaConfig(k=k, widths=widths, **common)
    yield "relu", ReluConfig(**common)
    yield "jumprelu", JumpReLUConfig(**common)
    yield "gated", GatedConfig(**common)


def training(**changes: object) -> TrainingConfig:
    """Settings of a short training without AuxK."""
    usual = {
        "lr": 3e-3,
        "updates": 200,
        "updates_per_epoch": 50,
        "batch": 32,
        "aux_coef": 0.0,
        "sparsity_coef": 0.01,
        "bandwidth": 0.5,
    }
    return TrainingConfig(**(usual | changes))


def fresh(config: SAEConfig, seed: int = 4) -> SAE:
    """An SAE none of whose parameters is 0 or tied to another."""
    sae = initial(config, planted_rows(64, config.d_model), seed=3, threshold=0.4)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in sae.trained:
            tensor = getattr(sae, name)
            tensor += 0.1 * torch.randn(tensor.shape, generator=draw)
        sae.W_dec /= sae.W_dec.norm(dim=1, keepdim=True)
    return sae


def doubled(sae: SAE) -> dict[str, Tensor]:
    """Trained tensors in double precision, asking for gradients."""
    return {name: getattr(sae, name).detach().double().requires_grad_() for name in sae.trained}


def dense_loss(sae: SAE, p: dict[str, Tensor], x: Tensor, training: TrainingConfig, dead: Tensor | None = None) -> Tensor:
    """The whole loss by dense operations in the precision of `p`."""
    config, pre = sae.config, sae.config.pre_bias
    rows = _as(sae, p).normalised(x.to(p["W_enc"])).rows
    coef = training.sparsity_coef
    match config:
        case TopKConfig():
            loss = reference.topk_loss(rows, p, pre, config.k, config.keep)
        case BatchTopKConfig():
            loss = reference.batchtopk_loss(rows, p, pre, config.k)
        case MatryoshkaConfig():
            loss = reference.matryoshka_loss(rows, p, pre, config.k, config.widths)
        case ReluConfig():
            loss = reference.relu_loss(rows, p, pre, coef, not training.unit_decoder)
        case JumpReLUConfig():
            loss = reference.jumprelu_loss(rows, p, pre, coef, training.bandwidth, training.target_l0)
        case GatedConfig():
            loss = reference.gated_loss(rows, p, pre, coef)
        case _:
            raise AssertionError(config)
    if dead is not None and training.aux_coef:
        mask = torch.zeros(config.d_sae, dtype=torch.bool).index_fill(0, dead, True)
        keep = config.keep if isinstance(config, TopKConfig) else "relu"
        z = reference.u(rows, p, pre) + p["b_enc"]
        f = reference.topk_codes(z, config.k, keep) if isinstance(config, TopKConfig) else reference.batchtopk_codes(z, config.k)
        aux = reference.auxiliary_loss(rows, reference.decoded(f, p), p, pre, mask, training.aux_k, keep, training.aux_target)
        loss = loss + training.aux_coef * aux
    return loss


def true_gradients(sae: SAE, x: Tensor, training: TrainingConfig, dead: Tensor | None = None) -> dict[str, Tensor]:
    """Gradients by dense float64 autograd; 0 where a parameter has no part in the loss."""
    p = doubled(sae)
    found = torch.autograd.grad(dense_loss(sae, p, x, training, dead), list(p.values()), allow_unused=True)
    return {name: torch.zeros_like(p[name]) if value is None else value for name, value in zip(p, found, strict=True)}


def _as(sae: SAE, p: dict[str, Tensor]) -> SAE:
    """An SAE whose normalisation runs in the precision of `p`."""
    return build(sae.config, sae.tensors()).to(p["W_enc"].dtype)
