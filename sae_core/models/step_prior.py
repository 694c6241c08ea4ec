"""The prior of step codes: a diagonal Gaussian around what the context alone lets one expect."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # its customary name

from sae_core.models.step_batch import StepBatch
from sae_core.models.step_sae import NORM_EPS, StepSAE


class StepPrior(NamedTuple):
    """Means and log variances of codes, of the last context token."""

    mean: Float[Tensor, "batch d_code"]
    log_variance: Float[Tensor, "batch d_code"]

    def nll(self, code: Float[Tensor, "batch d_code"]) -> Float[Tensor, ""]:
        """Negative log-likelihood in nats, the mean over batch and latents, ½ log 2π included."""
        squared = (code - self.mean).square() / self.log_variance.exp()
        return 0.5 * (self.log_variance + squared + math.log(2 * math.pi)).mean()

    def rmse(self, code: Float[Tensor, "batch d_code"]) -> Float[Tensor, ""]:
        """Root mean squared difference between means and codes."""
        return (code - self.mean).square().mean().sqrt()

    def sample(self, generator: torch.Generator, *, normalise: bool = True) -> Float[Tensor, "batch d_code"]:
        """Codes drawn from the prior, negative entries set to 0, of length 1 as those of steps are.

        Args:
            normalise: false leaves their length as drawn, which is what the original code decodes.
        """
        noise = torch.randn(self.mean.shape, generator=generator, dtype=self.mean.dtype, device=generator.device)
        return self.at(noise.to(self.mean.device), normalise=normalise)

    def at(self, noise: Float[Tensor, "batch d_code"], *, normalise: bool = True) -> Float[Tensor, "batch d_code"]:
        """The codes that standard normal noise of one's own draws, such as noise that belongs to a row and not to its batch."""
        drawn = torch.relu(self.mean + noise * (0.5 * self.log_variance).exp())
        return F.normalize(drawn, dim=-1, eps=NORM_EPS) if normalise else drawn


def prior(model: StepSAE, batch: StepBatch, *, pooled: bool = False) -> StepPrior:
    """Prior of the codes of these steps, from their contexts alone.

    Args:
        pooled: the variance reads the mean over context states in the place of the last, as the original's phase 3 does.
    """
    states = model.context_states(batch, pooled=pooled).to(model.autoencoder.latent_bias.dtype)
    return StepPrior(model.mean_mlp(states), model.var_mlp(states))
