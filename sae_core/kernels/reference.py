"""Dense truths: short, differentiable by autograd, in the precision of their arguments. For tests, never for training.

`p` holds the tensors of an SAE by name; x is already normalised. Each `*_loss` is the whole loss of a kind but for AuxK.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Tensors = Mapping[str, Tensor]
Rows = Float[Tensor, "batch d_model"]
Dense = Float[Tensor, "batch d_sae"]
Scalar = Float[Tensor, ""]


def u(x: Rows, p: Tensors, pre_bias: str) -> Dense:
    """(x − pre) W_encᵀ."""
    pre = {"own": p.get("b_pre", 0), "decoder": p["b_dec"], "none": 0}[pre_bias]
    return (x - pre) @ p["W_enc"].T


def decoded(f: Dense, p: Tensors) -> Rows:
    """f W_dec + b_dec."""
    return f @ p["W_dec"] + p["b_dec"]


def topk_codes(z: Dense, k: int, keep: str) -> Dense:
    """The k largest z (|z| for `absolute`) of each row, through a ReLU for `relu`, 0 elsewhere."""
    ranked = z.abs() if keep == "absolute" else z
    kept = z * torch.zeros_like(z).scatter(1, ranked.topk(k).indices, 1)
    return kept.relu() if keep == "relu" else kept


def batchtopk_codes(z: Dense, k: int) -> Dense:
    """The batch · k largest ReLU(z) of the batch, 0 elsewhere."""
    flat = z.relu().view(-1)
    return (flat * torch.zeros_like(flat).scatter(0, flat.topk(len(z) * k).indices, 1)).view_as(z)


def topk_loss(x: Rows, p: Tensors, pre_bias: str, k: int, keep: str) -> Scalar:
    """Mean squared error."""
    return (decoded(topk_codes(u(x, p, pre_bias) + p["b_enc"], k, keep), p) - x).square().mean()


def batchtopk_loss(x: Rows, p: Tensors, pre_bias: str, k: int) -> Scalar:
    """Mean squared error."""
    return (decoded(batchtopk_codes(u(x, p, pre_bias) + p["b_enc"], k), p) - x).square().mean()


def matryoshka_loss(x: Rows, p: Tensors, pre_bias: str, k: int, widths: Sequence[int]) -> Scalar:
    """Mean over widths of the mean squared error from the first latents."""
    f = batchtopk_codes(u(x, p, pre_bias) + p["b_enc"], k)
    errors = [f[:, :width] @ p["W_dec"][:width] + p["b_dec"] - x for width in widths]
    return torch.stack([error.square().mean() for error in errors]).mean()


def crosscoder_loss(x: Rows, p: Tensors, pre_bias: str, k: int, stages: int) -> Scalar:
    """Mean over stages of the mean squared error of each; kept are the batch · k largest ReLU(z) times the sum of decoder norms."""
    z = (u(x, p, pre_bias) + p["b_enc"]).relu()
    norms = torch.linalg.vector_norm(p["W_dec"].view(len(p["W_dec"]), stages, -1), dim=2).sum(1)
    kept = batchtopk_codes((z * norms).detach(), k) > 0
    errors = (decoded(z * kept, p) - x).view(len(x), stages, -1)
    return torch.stack([errors[:, stage].square().mean() for stage in range(stages)]).mean()


def relu_loss(x: Rows, p: Tensors, pre_bias: str, coef: float, by_norm: bool) -> Scalar:
    """Mean squared error + coef · Σ f per row, each latent times its decoder norm if `by_norm`."""
    f = (u(x, p, pre_bias) + p["b_enc"]).relu()
    price = torch.linalg.vector_norm(p["W_dec"], dim=1) if by_norm else torch.ones_like(p["b_enc"])
    return (decoded(f, p) - x).square().mean() + coef * (f * price).sum(1).mean()


class _Jump(torch.autograd.Function):
    """z · H(z − θ) with the pseudo-derivative −(θ/ε) K((z − θ)/ε) in θ."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, theta: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(z, theta)
        ctx.width = width
        return z * (z > theta)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]  # as torch calls it
        z, theta = ctx.saved_tensors
        near = ((z - theta).abs() < ctx.width / 2) / ctx.width
        return gradient * (z > theta), (-theta * near * gradient).sum(0), None


class _Step(torch.autograd.Function):
    """H(z − θ) with the pseudo-derivative −(1/ε) K((z − θ)/ε) in θ."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, theta: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(z, theta)
        ctx.width = width
        return (z > theta).to(z)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:  # type: ignore[override]  # as torch calls it
        z, theta = ctx.saved_tensors
        near = ((z - theta).abs() < ctx.width / 2) / ctx.width
        return None, (-near * gradient).sum(0), None


def jumprelu_loss(x: Rows, p: Tensors, pre_bias: str, coef: float, width: float, target_l0: float | None) -> Scalar:
    """Mean squared error + coef · L0, or coef · (L0/target − 1)²."""
    z = u(x, p, pre_bias) + p["b_enc"]
    f: Tensor = _Jump.apply(z, p["threshold"], width)  # type: ignore[assignment]  # apply is untyped
    steps: Tensor = _Step.apply(z, p["threshold"], width)  # type: ignore[assignment]  # apply is untyped
    l0 = steps.sum(1).mean()
    return (decoded(f, p) - x).square().mean() + coef * (l0 if target_l0 is None else (l0 / target_l0 - 1).square())


def gated_loss(x: Rows, p: Tensors, pre_bias: str, coef: float) -> Scalar:
    """Mean squared error + coef · Σ ReLU(gate) per row + mean squared error from the gates by a fixed decoder."""
    pre = u(x, p, pre_bias)
    gate = pre + p["b_gate"]
    f = (gate > 0) * (pre * p["r_mag"].exp() + p["b_mag"]).relu()
    by_gate = gate.relu() @ p["W_dec"].detach() + p["b_dec"].detach() - x
    return (decoded(f, p) - x).square().mean() + coef * gate.relu().sum(1).mean() + by_gate.square().mean()


def auxiliary_loss(
    x: Rows, x_hat: Rows, p: Tensors, pre_bias: str, dead: Bool[Tensor, " d_sae"], k: int, keep: str, target: str
) -> Scalar:
    """Mean squared error with which the k largest dead latents of each row reconstruct the detached residual, or the input.

    Source: Gao et al. 2024, §A.2 (residual), without its normalisation; OhhMoo SAE-RL, scripts/05_train_sae.py (input, with b_dec).
    """
    z = (u(x, p, pre_bias) + p["b_enc"])[:, dead]
    f = topk_codes(z, min(k, int(dead.sum())), keep)
    if target == "residual":
        return (f @ p["W_dec"][dead] - (x - x_hat).detach()).square().mean()
    return (f @ p["W_dec"][dead] + p["b_dec"] - x).square().mean()
