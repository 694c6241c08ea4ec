"""What one batch of steps adds to the loss of a step-level SAE, in each phase of training."""

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_core.models.step_batch import StepBatch
from sae_core.models.step_prior import prior
from sae_core.models.step_sae import StepSAE, last_states
from sae_core.training.head_loss import head_nll


@dataclass(frozen=True)
class StepNoise:
    """What is disturbed in training, and in training alone."""

    tokens: float = 0.1
    """Probability that a step token is hidden from encoder and decoder."""
    code: float = 0.01
    """Standard deviation of Gaussian noise added to every latent."""

    def __post_init__(self) -> None:
        if not (0 <= self.tokens < 1 and self.code >= 0):
            raise ValueError(f"Noise must hide a share of tokens below 1 and have a size ≥ 0; got {dataclasses.asdict(self)}.")


class StepTerms(NamedTuple):
    """Sums over a batch, so that a mean over several batches can be exact."""

    nll: Float[Tensor, ""]
    """Nats over all scored tokens (phase 1); in phases 2 and 3 the mean Gaussian NLL times the number of steps."""
    l1: Float[Tensor, ""]
    """L1 norms of the codes, before noise; 0 in phases 2 and 3."""


def step_terms(model: StepSAE, batch: StepBatch, *, noise: StepNoise | None, draw: torch.Generator | None = None) -> StepTerms:
    """Phase 1: the decoder's loss on the steps given their codes, and the L1 norms of these.

    Args:
        noise: what is disturbed; None in evaluation.
        draw: of the noise; a CPU generator gives the same noise on every device.
    """
    attends = batch.real if noise is None or noise.tokens == 0 else visible(batch, noise.tokens, draw)
    code = model.encode(batch, attends)
    l1 = code.sum()
    states = model.decoder_states(_noisy(code, noise, draw), batch, attends)
    scored = batch.predicted
    head = model.decoder.get_output_embeddings().weight  # type: ignore[operator]  # a causal language model
    return StepTerms(head_nll(states[scored], head, batch.ids[scored]), l1)


def prior_terms(model: StepSAE, batch: StepBatch, *, pooled: bool = False, raw: bool = False) -> StepTerms:
    """Phases 2 and 3: how well the context alone foretells the code.

    Args:
        pooled, raw: as the original's phase 3 does: mean context state, and codes before they are normalised.
    """
    with torch.no_grad():
        states = last_states(model.encoder, batch.ids, batch.real, batch.length - 1)
        code = model.autoencoder(states.to(model.autoencoder.latent_bias.dtype)) if raw else model.code(states)
    nll = prior(model, batch, pooled=pooled).nll(code)
    return StepTerms(nll * len(batch.length), torch.zeros_like(nll))


def visible(batch: StepBatch, rate: float, draw: torch.Generator | None) -> Bool[Tensor, "batch pos"]:
    """Which tokens are seen when each step token is hidden with probability `rate`; the end, where the code is read, always is."""
    device = batch.ids.device
    drawn = torch.rand(batch.ids.shape, generator=draw, device=draw.device if draw else device).to(device)
    end = torch.zeros_like(batch.real).scatter_(1, (batch.length - 1)[:, None], True)
    return batch.real & ((drawn >= rate) | ~batch.predicted | end)


def _noisy(
    code: Float[Tensor, "batch d_code"], noise: StepNoise | None, draw: torch.Generator | None
) -> Float[Tensor, "batch d_code"]:
    if noise is None or noise.code == 0:
        return code
    drawn = torch.randn(code.shape, generator=draw, device=draw.device if draw else code.device).to(code)
    return code + noise.code * drawn
