"""Dense truths for every kernel: short, differentiable by autograd, in the precision of their arguments.

For tests, never for training.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def codes(
    x: Float[Tensor, "batch d_model"],
    W_enc: Float[Tensor, "d_sae d_model"],
    b_enc: Float[Tensor, " d_sae"],
    b_pre: Float[Tensor, " d_model"],
    k: int,
    relu: bool,
) -> Float[Tensor, "batch d_sae"]:
    """Dense codes: the k largest pre-activations of each row, after selection through a ReLU or as they are, 0 elsewhere."""
    z = (x - b_pre) @ W_enc.T + b_enc
    kept = z * torch.zeros_like(z).scatter(1, z.topk(k).indices, 1)
    return kept.relu() if relu else kept


def reconstruction(
    f: Float[Tensor, "batch d_sae"], W_dec: Float[Tensor, "d_sae d_model"], b_dec: Float[Tensor, " d_model"]
) -> Float[Tensor, "batch d_model"]:
    """f W_dec + b_dec; b_pre is not added back."""
    return f @ W_dec + b_dec


def auxiliary_loss(
    x: Float[Tensor, "batch d_model"],
    x_hat: Float[Tensor, "batch d_model"],
    parameters: tuple[Tensor, Tensor, Tensor, Tensor, Tensor],
    dead: Bool[Tensor, " d_sae"],
    k: int,
    relu: bool,
    target: str,
) -> Float[Tensor, ""]:
    """Mean squared error with which the k largest dead latents of each row reconstruct the detached residual, or the input.

    Args:
        parameters: W_enc, W_dec, b_enc, b_dec, b_pre.

    Source: Gao et al. 2024, §A.2 (residual), without its normalisation; OhhMoo SAE-RL, scripts/05_train_sae.py (input, with b_dec).
    """
    W_enc, W_dec, b_enc, b_dec, b_pre = parameters
    f = codes(x, W_enc[dead], b_enc[dead], b_pre, min(k, int(dead.sum())), relu)
    if target == "residual":
        return (f @ W_dec[dead] - (x - x_hat).detach()).square().mean()
    return (f @ W_dec[dead] + b_dec - x).square().mean()


def densified(values: Float[Tensor, "batch k"], indices: Int[Tensor, "batch k"], d_sae: int) -> Float[Tensor, "batch d_sae"]:
    """Sparse codes as a dense matrix."""
    return values.new_zeros(len(values), d_sae).scatter(1, indices, values)
