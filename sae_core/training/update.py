"""One update of an SAE of any kind: explicit gradients, clip by global norm, Adam, unit decoder rows."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_core.config.sae import TopKConfig
from sae_core.config.training import TrainingConfig
from sae_core.kernels.backend import Gradient
from sae_core.kernels.gradient import ExtraRows, RowGradient
from sae_core.models.batchtopk import BatchSelectedSAE, BatchTopKSAE, MatryoshkaSAE
from sae_core.models.crosscoder import Crosscoder
from sae_core.models.elementwise import GatedSAE, JumpReLUSAE, ReluSAE
from sae_core.models.sae import SAE
from sae_core.models.topk import TopKSAE
from sae_core.training.aux import aux_gradients
from sae_core.training.merging import merged_gradients
from sae_core.training.objectives import (
    Found,
    Scene,
    batchtopk_objective,
    crosscoder_objective,
    gated_objective,
    jumprelu_objective,
    matryoshka_objective,
    relu_objective,
    topk_objective,
)
from sae_core.training.optimiser import Optimiser
from sae_core.training.ranks import Ranks
from sae_core.training.schedule import sparsity_coef


class Batch(NamedTuple):
    """What one batch showed."""

    loss: Float[Tensor, ""]
    """‖x̂' − x'‖²/N, without what a kind adds to it and without AuxK."""
    fired: Int[Tensor, " d_sae"]
    """Rows on which each latent was active."""
    gradients: dict[str, Gradient]
    """Of the whole loss, by name of the tensor."""
    smallest: Float[Tensor, ""] | None
    """Smallest activation that was kept, of kinds whose threshold follows it; None if none was."""


@torch.no_grad()
def backward(
    sae: SAE,
    rows: Float[Tensor, "batch d_model"],
    config: TrainingConfig,
    optimiser: Optimiser,
    dead: Int[Tensor, " dead"],
    update: int = 0,
) -> Batch:
    """The gradients of the whole loss on one batch, as autograd's backward would find them.

    Args:
        rows: a batch in original units; of several processes, each its share, all of them equally many.
        optimiser: holds the matrices and the backend, and knows the other processes.
        dead: latents of this SAE or part that the auxiliary loss revives; may be empty. Only SAEs that select by k have one.
        update: on which the sparsity coefficient depends while it rises.
    """
    target, parallel = sae.normalised(rows).rows, optimiser.parallel
    coef = sparsity_coef(update, config)
    scene = Scene(target, sae.centred(target), optimiser.matrices["W_enc"], config, coef, optimiser.backend, parallel)
    found = _objective(sae, scene)
    support, vectors = found.support, found.vectors
    decoder = support.decoder_gradient(found.codes, found.error_gradient)
    encoder = support.encoder_gradient(found.code_gradients, scene.centred)
    b_dec = found.b_dec
    pull = vectors["b_enc"] if "b_enc" in vectors else support.sums(found.code_gradients)
    if isinstance(sae, ReluSAE) and not config.unit_decoder:
        decoder = _with_price_of_norms(decoder, sae.W_dec, support.sums(found.codes) * scene.sparsity_coef / scene.batch)
    if config.aux_coef and isinstance(sae, TopKSAE | BatchSelectedSAE) and parallel.latents.any(len(dead) > 0):
        keep = sae.config.keep if isinstance(sae.config, TopKConfig) else "relu"
        weights = (sae.W_enc[dead], sae.W_dec[dead], sae.b_enc[dead])
        aux = aux_gradients(weights, sae.b_dec, scene.centred, target, -found.error, keep, config, parallel)
        decoder, encoder = _with_rows(decoder, dead, aux.W_dec), _with_rows(encoder, dead, aux.W_enc)
        pull = pull.index_add(0, dead, aux.b_enc)
        vectors = vectors | {"b_enc": pull}
        b_dec = b_dec if aux.b_dec is None else b_dec + aux.b_dec
    met = found.codes * support.spread(sae.code_unit()) if isinstance(sae, Crosscoder) else found.codes
    smallest = _smallest(met, parallel.both) if isinstance(sae, BatchSelectedSAE) else None
    decoder, encoder = merged_gradients(decoder, encoder, parallel.rows)
    fired = parallel.rows.sum_(support.fired(found.codes))
    loss, b_dec, pull, *numbers = parallel.rows.sums([found.loss, b_dec, pull, *vectors.values()])
    vectors = dict(zip(vectors, numbers, strict=True)) | _biases(sae, b_dec, pull, parallel.latents)
    return Batch(loss, fired, {"W_enc": encoder, "W_dec": decoder, **vectors}, smallest)


def _smallest(codes: Tensor, ranks: Ranks) -> Tensor | None:
    """The smallest code above 0 of all processes."""
    active = codes[codes > 0]
    least = ranks.least_(active.min() if len(active) else codes.new_full((), torch.inf))
    return least if torch.isfinite(least) else None


def _objective(sae: SAE, scene: Scene) -> Found:
    match sae:
        case TopKSAE():
            return topk_objective(sae, scene)
        case BatchTopKSAE():
            return batchtopk_objective(sae, scene)
        case MatryoshkaSAE():
            return matryoshka_objective(sae, scene)
        case ReluSAE():
            return relu_objective(sae, scene)
        case JumpReLUSAE():
            return jumprelu_objective(sae, scene)
        case GatedSAE():
            return gated_objective(sae, scene)
        case Crosscoder():
            return crosscoder_objective(sae, scene)
        case _:
            raise TypeError(f"no objective is known for {type(sae).__name__}")


def _biases(sae: SAE, b_dec: Tensor, pull: Tensor, shards: Ranks) -> dict[str, Tensor]:
    """Gradients of the biases of width d_model.

    Args:
        pull: gradient of every latent's u summed over rows; the pre-bias moves all of them at once.
    """
    match sae.config.pre_bias:
        case "own":
            return {"b_dec": b_dec, "b_pre": -shards.sum_(pull @ sae.W_enc)}
        case "decoder":
            return {"b_dec": b_dec - shards.sum_(pull @ sae.W_enc)}
        case "none":
            return {"b_dec": b_dec}


def _with_rows(gradient: Gradient, latents: Tensor, rows: Tensor) -> Gradient:
    if isinstance(gradient, RowGradient):
        return gradient._replace(extra=ExtraRows(latents, rows))
    return gradient.index_add_(0, latents, rows)


def _with_price_of_norms(gradient: Gradient, W_dec: Tensor, price: Tensor) -> Tensor:
    """Add the gradient of Σ price · ‖row‖."""
    written = gradient.written_out() if isinstance(gradient, RowGradient) else gradient
    norms = torch.linalg.vector_norm(W_dec, dim=1).clamp_min(1e-12)
    return written.addcmul_(W_dec, (price / norms).unsqueeze(1))


@torch.no_grad()
def step(sae: SAE, optimiser: Optimiser, batch: Batch, lr: float, config: TrainingConfig) -> None:
    """Clip by the global norm, take one step of Adam, and give the rows of W_dec norm 1 again; Adam's moments stay as they are."""
    optimiser.step(batch.gradients, lr, config)
    if isinstance(sae, JumpReLUSAE):
        sae.threshold.clamp_min_(0)
    if isinstance(sae, BatchSelectedSAE) and batch.smallest is not None:
        moved = sae.threshold.lerp(batch.smallest, config.threshold_rate)
        sae.threshold.copy_(torch.where(sae.threshold < 0, batch.smallest, moved))
