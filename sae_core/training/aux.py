"""AuxK: dead latents, compacted, reconstruct what the others leave over, so that they come back to life."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_core.config import TrainingConfig
from sae_core.models.topk import TopKSAE


@torch.no_grad()
def add_aux_gradients(
    sae: TopKSAE,
    dead: Int[Tensor, " dead"],
    z: Float[Tensor, "batch d_sae"],
    centred: Float[Tensor, "batch d_model"],
    scaled: Float[Tensor, "batch d_model"],
    residual: Float[Tensor, "batch d_model"],
    config: TrainingConfig,
) -> Float[Tensor, ""]:
    """Add the gradients of aux_coef · AuxK to the parameters' `grad` and return AuxK.

    AuxK is the mean squared error with which the aux_k largest dead latents of each row reconstruct the residual (Gao et al. 2024)
    or the input (OhhMoo SAE-RL, decoder bias included). Its gradients are full, those of the encoder included: some public trainers
    lose these, and dead latents then never learn when to fire. That of b_pre is not added, it follows from that of b_enc. Dense in
    the dead latents, because aux_k / dead lies above the density where sparse products win.

    Args:
        dead: indices of the dead latents, each once.
        z: pre-activations of all latents.
        centred: x/scale − b_pre.
        scaled: x/scale.
        residual: (x − x̂)/scale; a constant here, no gradient flows through it.

    Source: Gao et al. 2024, §A.2, without its normalisation by the residual's size.
    """
    codes = z.index_select(1, dead)
    if config.aux_k < len(dead):
        values, indices = codes.topk(config.aux_k, dim=1, sorted=False)
        codes = torch.zeros_like(codes).scatter_(1, indices, values)
    if sae.relu:
        codes = codes.relu()
    weights = sae.W_dec.index_select(0, dead)
    error = codes @ weights - (scaled - sae.b_dec if config.aux_target == "input" else residual)
    gradient = error * (2 * config.aux_coef / error.numel())
    # a code of exactly 0 is one that was not kept, or one behind the ReLU: neither lets a gradient through
    code_gradient = (gradient @ weights.T).masked_fill_(codes == 0, 0)
    _grad(sae.W_enc).index_add_(0, dead, code_gradient.T @ centred)
    _grad(sae.W_dec).index_add_(0, dead, codes.T @ gradient)
    _grad(sae.b_enc).index_add_(0, dead, code_gradient.sum(0))
    if config.aux_target == "input":
        _grad(sae.b_dec).add_(gradient.sum(0))
    return error.square().mean()


def _grad(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None, "AuxK adds to the gradients of the main loss"
    return parameter.grad
