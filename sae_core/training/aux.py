"""AuxK: dead latents, compacted, reconstruct what the others leave over, so that they come back to life."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.config.training import TrainingConfig
from sae_core.training.merging import among_largest
from sae_core.training.parallel import Parallel
from sae_core.training.ranks import Ranks


class AuxGradients(NamedTuple):
    """Gradients of aux_coef · AuxK, for the dead latents in their order."""

    W_enc: Float[Tensor, "dead d_model"]
    W_dec: Float[Tensor, "dead d_model"]
    b_enc: Float[Tensor, " dead"]
    b_dec: Float[Tensor, " d_model"] | None
    """None where AuxK does not move it."""
    loss: Float[Tensor, ""]
    """AuxK on these rows."""


def aux_gradients(
    weights: tuple[Float[Tensor, "dead d_model"], Float[Tensor, "dead d_model"], Float[Tensor, " dead"]],
    b_dec: Float[Tensor, " d_model"],
    centred: Float[Tensor, "batch d_model"],
    target: Float[Tensor, "batch d_model"],
    residual: Float[Tensor, "batch d_model"],
    keep: str,
    config: TrainingConfig,
    parallel: Parallel,
) -> AuxGradients:
    """Gradients of the squared error with which the aux_k largest dead latents of each row reconstruct residual or input.

    Residual: Gao et al. 2024. Input: OhhMoo SAE-RL, decoder bias included. The gradients are full, those of the encoder included:
    some public trainers lose these, and dead latents then never learn when to fire. Dense in the dead latents, because aux_k / dead
    lies above the density where sparse products win.

    Args:
        weights: W_enc, W_dec and b_enc of the dead latents of this process.
        centred: x' − pre.
        target: x'.
        residual: x' − x̂'; a constant here, no gradient flows through it.
        keep: what becomes of the largest, as in `TopKConfig`.

    Source: Gao et al. 2024, §A.2, without its normalisation by the residual's size.
    """
    W_enc, W_dec, b_enc = weights
    codes = torch.addmm(b_enc, centred, W_enc.T)
    if config.aux_k < sum(parallel.latents.numbers(len(b_enc))):
        codes = _largest(codes, config.aux_k, keep, parallel.latents)
    if keep == "relu":
        codes = codes.relu()
    found = parallel.latents.sum_(codes @ W_dec)
    error = found - (target - b_dec if config.aux_target == "input" else residual)
    gradient = error * (2 * config.aux_coef / (error.numel() * parallel.rows.size))
    # a code of exactly 0 is one that was not kept, or one behind the ReLU: neither lets a gradient through
    code_gradient = (gradient @ W_dec.T).masked_fill_(codes == 0, 0)
    moved = gradient.sum(0) if config.aux_target == "input" else None
    return AuxGradients(code_gradient.T @ centred, codes.T @ gradient, code_gradient.sum(0), moved, error.square().mean())


def _largest(codes: Float[Tensor, "batch dead"], k: int, keep: str, shards: Ranks) -> Float[Tensor, "batch dead"]:
    """Codes of the k largest of each row in all shards, 0 elsewhere."""
    ranked = codes.abs() if keep == "absolute" else codes
    values, latents = ranked.topk(min(k, codes.shape[1]), dim=1, sorted=False)
    kept = codes.gather(1, latents)
    if shards.size > 1:
        kept = kept * among_largest(values, k, shards)
    return torch.zeros_like(codes).scatter_(1, latents, kept)
