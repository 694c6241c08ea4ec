"""A beginning from which the bottleneck of a step-level SAE can be learned.

With torch's own weights, what all steps have in common is most of a pre-activation, so that codes of length 1 are nearly one and
the same code and noise drowns what is left: the decoder learns to write steps without it, and the encoder has no reason to bring
it back (posterior collapse). Here every latent begins with variance 1 over real steps and as sparse as it is to become, and what
the states of these steps have in common is taken off them, as the pre-bias of other SAEs does, for good.

Sources: Mishkin & Matas, "All you need is a good init" (2016), for weights scaled by data; Bowman et al., "Generating sentences
from a continuous space" (2016), for decoders that learn to do without the code.
"""

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_core.models.step_sae import StepBottleneck, StepSAE

HALVINGS = 60
"""Of the interval in which the threshold is looked for; then float64 has no more digits."""
ROUNDING = 1e-6
"""Of float32, relative."""


@torch.no_grad()
def start_at_target(model: StepSAE, states: Float[Tensor, "step d_model"], target_l1: float) -> None:
    """Scale the bottleneck by the encoder's states of some steps, and the projection by their codes.

    Afterwards, over these steps: every pre-activation W (h − m) + c has variance 1 and the same mean, namely that for which codes
    have the mean L1 norm `target_l1`; elements of soft tokens have mean 0 and, all together, variance 1, that of normalised
    states, so that what the decoder's first blocks add to them does not drown them.

    Args:
        states: last hidden states of the encoder at the ends of steps, some hundreds of them.
        target_l1: mean L1 norm of codes of length 1.

    Raises:
        ValueError: fewer than two steps, states that do not differ, or a norm that codes of this size cannot have.
    """
    bottleneck = model.autoencoder
    bottleneck.centre = states.mean(0)
    raw = bottleneck.encoder(states - bottleneck.centre)
    _check(raw, float(bottleneck.encoder(states).abs().max()))
    bottleneck.encoder.weight /= raw.std(0)[:, None]
    bottleneck.latent_bias.fill_(-threshold(raw / raw.std(0), target_l1))
    hidden, soft = cast(nn.Linear, model.projection_mlp[0]), cast(nn.Linear, model.projection_mlp[2])
    code = model.code(states)
    hidden.bias.zero_()
    hidden.weight /= hidden(code).std()
    read = torch.relu(hidden(code))
    soft.weight /= soft(read).std(0).square().mean().sqrt()
    soft.bias -= soft(read).mean(0)


@torch.no_grad()
def centre_codes(bottleneck: StepBottleneck, states: Float[Tensor, "step d_model"]) -> None:
    """Take the mean of these states off while the bottleneck is trained; its codes stay what they are, but for rounding."""
    bottleneck.centre = states.mean(0)
    bottleneck.latent_bias.add_(bottleneck.encoder(bottleneck.centre))


def threshold(scores: Float[Tensor, "step latent"], target_l1: float) -> float:
    """q at which the codes ReLU(scores − q), brought to length 1, have the mean L1 norm `target_l1`; empty codes count 0.

    Raises:
        ValueError: no q does that.
    """
    scores = scores.double()
    low, high = float(scores.min()) - 1e3, float(scores.max())

    def norm(q: float) -> float:
        code = torch.relu(scores - q)
        return float((code.sum(1) / code.norm(dim=1).clamp_min(1e-12)).mean())

    if not 0 < target_l1 < norm(low):
        raise ValueError(
            f"The L1 norm of codes of {scores.shape[1]} latents must be below {norm(low):.4g}; the target is {target_l1:g}. "
            "Lower it, or raise the number of soft tokens per code."
        )
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if norm(middle) > target_l1 else (low, middle)
    return (low + high) / 2


def _check(raw: Tensor, largest: float) -> None:
    """Differences that are no more than rounding would be blown up to codes."""
    spread = float(raw.std(0).min()) if len(raw) > 1 else 0.0
    if not spread > ROUNDING * largest:
        raise ValueError(
            f"Codes can only start at their target from two steps or more whose states differ; got {len(raw)} with a least "
            f"deviation of {spread:.3g} in pre-activations of up to {largest:.3g}. Give more steps, or start at random."
        )
