"""What the training of a step-level SAE reports."""

from typing import NamedTuple


class StepUpdate(NamedTuple):
    """One update."""

    update: int
    """Updates done with it."""
    lr: float
    weight: float
    """Of the L1 norm in the loss, as it was at the beginning of the update."""
    nll: float
    """Nats per token of the steps, ends among them (phase 1); per latent (phases 2 and 3)."""
    l1: float
    """Mean L1 norm of the codes; 0 in phases 2 and 3."""
    grad_norm: float
    """Before it was clipped."""
    tokens: int
    """Tokens scored in phase 1."""
    steps: int
    """Reasoning steps."""


class StepQuality(NamedTuple):
    """Quality on steps that are not trained on, without hidden tokens and noise."""

    nll: float
    """As `StepUpdate.nll`."""
    l1: float
    """Mean L1 norm of the codes."""
    l0: float
    """Active latents per step."""
    active_share: float
    """The same as a share of all latents."""
