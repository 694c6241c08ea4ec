"""How a step-level SAE is trained, checked when it is made."""

from dataclasses import dataclass, fields
from typing import Literal

CHOICES = {"schedule": ("cosine", "constant"), "schedule_per": ("epoch", "update"), "precision": ("fp32", "bf16")}


@dataclass(frozen=True, kw_only=True)
class StepLegacy:
    """What the published training does otherwise; for comparison with it alone."""

    masked_readout: bool = False
    """Hidden tokens shorten the step: the code is read before its end, and positions may see their own token."""

    phase3_raw: bool = False
    """Phase 3 regresses codes before they are normalised, on the mean of the context states."""

    eval_noise: bool = False
    """Codes are noisy in evaluation, too."""

    sum_accumulation: bool = False
    """Gradients of the means of micro-batches are added up, in the place of the gradient of the mean over the update."""

    local_controller: bool = False
    """Every process leads a weight of its own, by its own micro-batches and right after each."""


@dataclass(frozen=True, kw_only=True)
class StepTrainingConfig:
    """How long, how fast and with which noise a step-level SAE is trained."""

    updates_per_epoch: int
    """Updates of one pass over the steps."""

    epochs: int = 30
    """Passes over the steps."""

    phase: Literal[1, 2, 3] = 1
    """1 codes and reconstruction, 2 the prior of codes given the context, 3 its variance alone."""

    lr: float = 1e-6
    """Peak learning rate of AdamW."""

    min_lr: float = 1e-7
    """Learning rate behind `decay_epochs`."""

    encoder_lr_multiple: float = 1.0
    """Learning rate of the encoder language model in phase 1, as a multiple of the others'."""

    warmup_epochs: float = 2.0
    """Epochs over which the learning rate rises."""

    decay_epochs: int = 30
    """Epoch, from 0, at which the cosine has come down to `min_lr`."""

    schedule: Literal["cosine", "constant"] = "cosine"
    """The learning rate behind the warm-up."""

    schedule_per: Literal["epoch", "update"] = "epoch"
    """Whether it changes with every epoch or with every update."""

    beta1: float = 0.9
    """AdamW's decay of the first moment."""

    beta2: float = 0.95
    """AdamW's decay of the second moment."""

    weight_decay: float = 0.01
    """On all trained tensors."""

    grad_clip: float = 1.0
    """Largest global norm of the gradient; 0: no limit."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """Of products; weights, gradients, moments and the bottleneck stay float32."""

    train_embeddings: bool = True
    """Whether phase 1 trains token embeddings and what is tied to them."""

    token_mask_rate: float = 0.1
    """Share of step tokens hidden in training."""

    noise: float = 0.01
    """Standard deviation of the noise on every latent in training."""

    seed: int = 0
    """Of hidden tokens and noise, together with the update and the micro-batch."""

    legacy: StepLegacy = StepLegacy()
    """Behaviour of the published code."""

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}; got {getattr(self, name)!r}. Correct it.")
        for name in ("updates_per_epoch", "epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}. Raise it.")
        if self.phase not in (1, 2, 3):
            raise ValueError(f"phase must be 1, 2 or 3; got {self.phase}. Correct it.")
        if not 0 <= self.min_lr <= self.lr or self.lr == 0:
            raise ValueError(
                f"Learning rates must be 0 ≤ min_lr ≤ lr, lr above 0; got {self.min_lr:g} and {self.lr:g}. Correct them."
            )
        if not self.encoder_lr_multiple > 0:
            raise ValueError(f"encoder_lr_multiple must be above 0; got {self.encoder_lr_multiple:g}. Raise it.")
        if not 0 <= self.warmup_epochs < self.decay_epochs:
            raise ValueError(f"warmup_epochs must be below decay_epochs = {self.decay_epochs}; got {self.warmup_epochs:g}. Lower it.")

    @property
    def updates(self) -> int:
        """Updates in all."""
        return self.epochs * self.updates_per_epoch


def legacy_flags(legacy: StepLegacy) -> list[str]:
    """Names of the flags that are set."""
    return [field.name for field in fields(legacy) if getattr(legacy, field.name)]
