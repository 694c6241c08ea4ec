"""One update of a TopK SAE: explicit sparse gradients, clip by global norm, fused Adam, unit decoder rows."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_core.config import TrainingConfig
from sae_core.kernels.sparse import by_latent, decode, entry_gradients, latent_sums, topk_rows, unit_rows_, weight_gradient
from sae_core.models.topk import PARAMETERS, TopKSAE
from sae_core.training.aux import add_aux_gradients


class Batch(NamedTuple):
    """What one batch showed."""

    loss: Float[Tensor, ""]
    """Mean squared error per element of x/scale, without the auxiliary loss."""
    fired: Int[Tensor, " d_sae"]
    """Rows on which each latent was active."""


def make_optimiser(sae: TopKSAE, config: TrainingConfig) -> torch.optim.Adam:
    """Adam over the SAE's parameters in the order of PARAMETERS; on a CPU `fused` is several times the speed of the plain one."""
    return torch.optim.Adam([getattr(sae, name) for name in PARAMETERS], lr=config.lr, fused=True)


@torch.no_grad()
def backward(sae: TopKSAE, rows: Float[Tensor, "batch d_model"], config: TrainingConfig, dead: Int[Tensor, " dead"]) -> Batch:
    """Leave the gradients of mean((x̂ − x)²)/scale² + aux_coef · AuxK in the parameters' `grad`, as autograd's backward would.

    Args:
        rows: a batch in original units.
        config: its aux_coef, aux_k and aux_target are read.
        dead: latents that the auxiliary loss revives; may be empty.
    """
    scaled = rows / sae.scale
    centred = scaled - sae.b_pre
    z = torch.addmm(sae.b_enc, centred, sae.W_enc.T)
    kept, indices = topk_rows(z, sae.config.k)
    values = kept.relu() if sae.relu else kept
    error = decode(values, indices, sae.W_dec.detach()).add_(sae.b_dec).sub_(scaled)
    gradient = error * (2 / error.numel())
    entries = by_latent(indices, sae.config.d_sae)
    codes = values.reshape(-1)[entries.order]
    # with fewer than k positive pre-activations, those behind the ReLU are kept but get no gradient
    code_gradients = entry_gradients(gradient, sae.W_dec, entries).mul_(codes != 0)
    # one large gradient after the other takes the place of the last update's: freeing those first, or both at once, would hand
    # their pages back to the system, and fetching new ones takes longer than filling them
    sae.W_enc.grad = weight_gradient(code_gradients, entries, centred)
    sae.W_dec.grad = weight_gradient(codes, entries, gradient)
    sae.b_enc.grad = latent_sums(code_gradients, entries, len(rows))
    sae.b_dec.grad = gradient.sum(0)
    if len(dead) and config.aux_coef:
        add_aux_gradients(sae, dead, z, centred, scaled, error.neg(), config)
    sae.b_pre.grad = -(sae.b_enc.grad @ sae.W_enc)
    fired = torch.zeros(sae.config.d_sae, dtype=torch.int64, device=rows.device)
    fired.index_add_(0, entries.latents, (codes != 0).to(torch.int64))
    return Batch(torch.dot(error.view(-1), error.view(-1)) / error.numel(), fired)


@torch.no_grad()
def step(sae: TopKSAE, optimiser: torch.optim.Adam, lr: float, grad_clip: float) -> None:
    """Clip by the global norm, take one step of Adam, and give the rows of W_dec norm 1 again; Adam's moments stay as they are."""
    found = [getattr(sae, name).grad for name in PARAMETERS]
    norm = torch.stack([torch.dot(gradient.view(-1), gradient.view(-1)) for gradient in found]).sum().sqrt()
    shrink = (grad_clip / (norm + 1e-6)).clamp(max=1)
    # a product with 1 is left out on a CPU, where looking at a number does not make a device wait
    if shrink.is_cuda or shrink < 1:
        for gradient in found:
            gradient.mul_(shrink)
    optimiser.param_groups[0]["lr"] = lr
    optimiser.step()
    unit_rows_(sae.W_dec)
