"""What a training reports and what it leaves."""

from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor


class Diverged(ValueError):  # noqa: N818 - what happened, not a defect of the program
    """The loss of a training is no longer finite."""

    def __init__(self, message: str, update: int, member: str = "") -> None:
        super().__init__(message)
        self.update = update
        """Update, from 1, at which it was noticed."""
        self.member = member
        """Which training of a group it was."""


class HeldOut(NamedTuple):
    """Quality on rows that are not trained on."""

    nmse: float
    """Σ‖x−x̂‖²/Σ‖x−μ‖²."""
    l0: float
    """Active latents per row."""


class EpochRecord(NamedTuple):
    """One epoch of the training."""

    epoch: int
    """From 1."""
    update: int
    """Updates done at its end."""
    train_loss: float
    """Mean over the epoch of the mean squared error per element of x', without what a kind adds to it and without AuxK."""
    nmse: float | None
    """Held-out, at its end, before dead latents are re-initialised; None where it was not measured."""
    l0: float | None
    """Held-out; None where it was not measured."""
    dead_share: float
    """Share of latents that fired on less than dead_rate of the epoch's rows."""
    resampled: int
    """Latents re-initialised during it or at its end."""
    lr: float
    """Learning rate of its last update."""


class Moments(NamedTuple):
    """Adam's memory of the gradients, on the CPU, by name of the tensor."""

    count: int
    """Steps behind it, which its bias correction asks for."""
    first: dict[str, Tensor]
    """Running means of the gradients."""
    second: dict[str, Tensor]
    """Running means of their squares."""


class Trained(NamedTuple):
    """The SAE of the epoch that is kept."""

    tensors: dict[str, Tensor]
    firing_rate: Float[Tensor, " d_sae"]
    """Share of that epoch's rows on which each latent fired, while it was trained."""
    reinitialised: Bool[Tensor, " d_sae"]
    """Latents that had been re-initialised by then, in this training or before."""
    epoch: int
    """That epoch, from 1."""
    moments: Moments | None = None
    """Adam's moments at its end, if they were to be kept."""
