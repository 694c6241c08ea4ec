"""The same planted rows, the same number of updates: one SAE trained by sae_core, one of the same kind by SAELens."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.planted import Planted, Recovery, recovery_of
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
from sae_core.kernels.torch_backend import TorchBackend
from sae_core.models.build import initial
from sae_core.training.optimiser import Optimiser
from sae_core.training.update import backward, step

SELECTING = ("topk", "batchtopk", "matryoshka_batchtopk")
PAYING = ("relu", "jumprelu", "gated")
KINDS = (*SELECTING, *PAYING)


class Plan(NamedTuple):
    """Size and budget of both."""

    d_model: int = 32
    d_sae: int = 128
    """As many latents as planted directions."""
    k: int = 4
    """Planted directions per row, and latents kept per row of kinds that select."""
    batch: int = 256
    updates: int = 1500
    lr: float = 3e-3
    dead_window: int = 500
    """A latent is dead after so many updates without firing."""
    held_out: int = 8192

    @property
    def widths(self) -> tuple[int, ...]:
        return (self.d_sae // 8, self.d_sae // 4, self.d_sae // 2, self.d_sae)


class Data(NamedTuple):
    """One stream of rows, read by both."""

    directions: Tensor
    first: Tensor
    """Rows that show the mean before training."""
    batches: list[Tensor]
    held_out: Tensor


def data_of(plan: Plan, seed: int) -> Data:
    planted = Planted(plan.d_model, plan.d_sae, plan.k, seed)
    first, held_out = planted.rows(plan.held_out), planted.rows(plan.held_out)
    return Data(planted.directions, first, [planted.rows(plan.batch) for _ in range(plan.updates)], held_out)


def trained_by_us(kind: str, plan: Plan, data: Data, coef: float, seed: int) -> Recovery:
    """sae_core's defaults, but for a constant learning rate and the decoder's bias as pre-bias, which SAELens has by default.

    SAELens sums the squared error over d_model, ours is a mean: its clip at norm 1 is ours at 1/d_model. Where a kind pays for the
    size of its codes, the gradient of decoder rows loses its part along them, as in Bricken et al. 2023: otherwise Adam's moments
    carry it at every update though the norm of the rows is fixed.

    Args:
        coef: SAELens' sparsity coefficient; ours is per element of a row.
    """
    torch.manual_seed(seed)
    sae = initial(_config(kind, plan), data.first, seed, normalise="none")
    config = TrainingConfig(
        lr=plan.lr, updates=plan.updates, updates_per_epoch=plan.updates, batch=plan.batch, schedule="constant",
        grad_clip=1 / plan.d_model, sparsity_coef=coef / plan.d_model, project_decoder=kind in PAYING,
    )  # fmt: skip
    optimiser, since_fired = Optimiser(sae, TorchBackend(torch.device("cpu"))), torch.zeros(plan.d_sae, dtype=torch.int64)
    for update, rows in enumerate(data.batches):
        dead = (since_fired > plan.dead_window).nonzero().squeeze(1)
        found = backward(sae, rows, config, optimiser, dead, update)
        step(sae, optimiser, found, plan.lr, config)
        since_fired = torch.where(found.fired > 0, 0, since_fired + 1)
    with torch.no_grad():
        codes, x_hat = sae.encode_dense(data.held_out), sae(data.held_out)
    return recovery_of(sae.W_dec.detach(), codes, x_hat, data.held_out, data.directions)


def _config(kind: str, plan: Plan) -> SAEConfig:
    d_model, d_sae, k = plan.d_model, plan.d_sae, plan.k
    match kind:
        case "topk":
            return TopKConfig(d_model=d_model, d_sae=d_sae, k=k, pre_bias="decoder")
        case "batchtopk":
            return BatchTopKConfig(d_model=d_model, d_sae=d_sae, k=k, pre_bias="decoder")
        case "matryoshka_batchtopk":
            return MatryoshkaConfig(d_model=d_model, d_sae=d_sae, k=k, widths=plan.widths, pre_bias="decoder")
        case "relu":
            return ReluConfig(d_model=d_model, d_sae=d_sae, pre_bias="decoder")
        case "jumprelu":
            return JumpReLUConfig(d_model=d_model, d_sae=d_sae, pre_bias="decoder")
        case "gated":
            return GatedConfig(d_model=d_model, d_sae=d_sae, pre_bias="decoder")
        case _:
            raise ValueError(f"A kind must be one of {', '.join(KINDS)}; got {kind!r}. Choose one of them.")


def trained_by_sae_lens(kind: str, plan: Plan, data: Data, coef: float, seed: int) -> Recovery:
    """SAELens' defaults for the kind.

    Raises:
        ImportError: sae-lens is not installed.
    """
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(seed)
    sae = _of_sae_lens(kind, plan, coef)
    config = SAETrainerConfig(
        total_training_samples=plan.updates * plan.batch, train_batch_size_samples=plan.batch, lr=plan.lr, lr_end=plan.lr,
        dead_feature_window=plan.dead_window,
    )  # fmt: skip
    rows: Iterator[Tensor] = iter(data.batches)
    trainer = SAETrainer(config, sae, rows)
    for batch in rows:
        trainer.step(batch)
        trainer.n_training_steps += 1
    with torch.no_grad():
        codes = _codes_of_sae_lens(kind, sae, data.held_out)
        x_hat = sae.decode(codes)
    return recovery_of(sae.W_dec.detach(), codes, x_hat, data.held_out, data.directions)


def _of_sae_lens(kind: str, plan: Plan, coef: float) -> Any:
    import sae_lens as theirs

    size: dict[str, Any] = {"d_in": plan.d_model, "d_sae": plan.d_sae}
    match kind:
        case "topk":
            return theirs.TopKTrainingSAE(theirs.TopKTrainingSAEConfig(k=plan.k, **size))
        case "batchtopk":
            return theirs.BatchTopKTrainingSAE(theirs.BatchTopKTrainingSAEConfig(k=float(plan.k), **size))
        case "matryoshka_batchtopk":
            config = theirs.MatryoshkaBatchTopKTrainingSAEConfig(k=float(plan.k), matryoshka_widths=list(plan.widths), **size)
            return theirs.MatryoshkaBatchTopKTrainingSAE(config)
        case "relu":
            return theirs.StandardTrainingSAE(theirs.StandardTrainingSAEConfig(l1_coefficient=coef, **size))
        case "jumprelu":
            return theirs.JumpReLUTrainingSAE(theirs.JumpReLUTrainingSAEConfig(l0_coefficient=coef, **size))
        case _:
            return theirs.GatedTrainingSAE(theirs.GatedTrainingSAEConfig(l1_coefficient=coef, **size))


def _codes_of_sae_lens(kind: str, sae: Any, rows: Tensor) -> Tensor:
    """Codes as after training, in the unit that its `decode` takes: kinds that select in a batch meet their threshold."""
    if kind not in ("batchtopk", "matryoshka_batchtopk"):
        return sae.encode(rows)
    z = (sae.process_sae_in(rows) @ sae.W_enc + sae.b_enc) * sae.W_dec.norm(dim=1)
    return z.relu() * (z > sae.topk_threshold.to(z.dtype))
