"""Settings of one SAE and of its training, checked when they are made."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class SAEConfig:
    """Shape and activation of a TopK SAE."""

    d_model: int
    """Width of a row."""

    d_sae: int
    """Latents."""

    k: int
    """Latents kept per row."""

    activation: Literal["relu", "signed"] = "relu"
    """`relu`: selected pre-activations below 0 become 0 (Gao et al. 2024); `signed`: they stay as they are (OhhMoo SAE-RL)."""

    def __post_init__(self) -> None:
        for name in ("d_model", "d_sae", "k"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}. Raise it.")
        if self.k > self.d_sae:
            raise ValueError(f"k must be at most d_sae = {self.d_sae}; got {self.k}. Lower k or raise d_sae.")
        if self.activation not in ("relu", "signed"):
            raise ValueError(f"activation must be relu or signed; got {self.activation!r}. Choose one of the two.")


@dataclass(frozen=True)
class TrainingConfig:
    """How long, how fast and with which repairs an SAE is trained. All rates and coefficients are per update."""

    lr: float
    """Peak learning rate of Adam (β 0.9 and 0.999, ε 1e-8, no weight decay)."""

    updates: int
    """Updates in all; the learning rate has come down to its floor after the last."""

    updates_per_epoch: int
    """Updates between two validations; `updates` must be a multiple of it."""

    batch: int
    """Rows per update."""

    lr_floor: float = 0.1
    """Share of `lr` at which the cosine ends."""

    warmup_updates: int = 0
    """Updates over which the learning rate rises linearly to `lr`."""

    grad_clip: float = 1.0
    """Largest global norm of the gradient."""

    aux_coef: float = 1 / 32
    """Weight of the auxiliary loss on dead latents; 0 switches it off."""

    aux_k: int = 512
    """Dead latents used per row by the auxiliary loss; all of them where there are no more."""

    aux_target: Literal["residual", "input"] = "residual"
    """What the dead latents reconstruct: the detached residual (Gao et al. 2024) or the input (OhhMoo SAE-RL)."""

    dead_rate: float = 1e-4
    """A latent is dead when it fired on less than this share of the rows of the last epoch."""

    resample_epochs: int = 0
    """Dead latents are re-initialised after every so many epochs, never after the last; 0: never."""

    seed: int = 0
    """Seed of the rows drawn for re-initialisation."""

    def __post_init__(self) -> None:
        for name in ("lr", "updates", "updates_per_epoch", "batch", "grad_clip", "aux_k"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0; got {getattr(self, name)}. Raise it.")
        if self.updates % self.updates_per_epoch:
            raise ValueError(
                f"updates must be a multiple of updates_per_epoch = {self.updates_per_epoch}; got {self.updates}. "
                "Train whole epochs."
            )
        if not 0 <= self.warmup_updates < self.updates:
            raise ValueError(
                f"warmup_updates must be at least 0 and below updates = {self.updates}; got {self.warmup_updates}. "
                "Lower it or train longer."
            )

    @property
    def epochs(self) -> int:
        """Passes over the rows."""
        return self.updates // self.updates_per_epoch
