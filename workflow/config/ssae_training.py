"""How one step-level SAE (SSAE) is trained.

Defaults are those of the code of "Step-level sparse autoencoders", arXiv 2603.03031 (2026), but for the order of steps (shuffled on
one device, too), the number of evaluations and what is kept of them.
"""

from typing import Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    model_validator,
)  # fmt: skip

from workflow.config.filled import Filled
from workflow.config.section import Section

PHASES: dict[int, dict[str, Any]] = {
    1: {"epochs": 30, "lr": 1e-6, "min_lr": 1e-7},
    2: {"epochs": 101, "lr": 1e-4, "min_lr": 1e-5},
    3: {"epochs": 101, "lr": 1e-4, "min_lr": 1e-5},
}
"""Defaults by phase: 1 trains whole language models, 2 and 3 small perceptrons."""


class SsaeTraining(Filled):
    """How an SSAE is trained; AdamW."""

    phase: int = Field(default=1, ge=1, le=3)
    """1: codes and reconstruction; 2: the prior of codes given the context; 3: the prior's variance alone."""

    epochs: PositiveInt = PHASES[1]["epochs"]
    """Passes over the steps; null: 30 in phase 1, 101 in phases 2 and 3."""

    max_updates: PositiveInt | None = None
    """Updates after which training ends at the latest; the schedule stays that of `epochs`."""

    lr: PositiveFloat = PHASES[1]["lr"]
    """Peak learning rate; null: 1e-6 in phase 1, 1e-4 in phases 2 and 3."""

    encoder_lr_multiple: PositiveFloat = 1.0
    """phase 1: learning rate of the encoder language model as a multiple of that of the rest; below 1 where few updates must do: an
    encoder that moves fast gives all steps one and the same code before the decoder has learned to read them."""

    min_lr: NonNegativeFloat = PHASES[1]["min_lr"]
    """Learning rate at `decay_epochs` and after; null: 1e-7 in phase 1, 1e-5 in phases 2 and 3."""

    warmup_epochs: NonNegativeFloat = 2.0
    """Epochs, or a part of one, over which the learning rate rises: lr · (t + 1) / (warmup + 1), t counted from 0 in epochs or,
    with `schedule_per: update`, in updates."""

    decay_epochs: PositiveInt = PHASES[1]["epochs"]
    """Epoch at which the cosine has come down to `min_lr`; null: `epochs`."""

    schedule: Literal["cosine", "constant"] = "cosine"
    """The learning rate after the warm-up."""

    schedule_per: Literal["epoch", "update"] = "epoch"
    """Whether the learning rate changes once per epoch or with every update."""

    batch: PositiveInt = 128
    """Steps per update, whatever the number of devices."""

    micro_batch: PositiveInt = 16
    """Steps of one forward and backward pass; must divide `batch`."""

    beta1: float = Field(default=0.9, ge=0, lt=1)
    """AdamW's decay of the first moment."""

    beta2: float = Field(default=0.95, ge=0, lt=1)
    """AdamW's decay of the second moment."""

    weight_decay: NonNegativeFloat = 0.01
    """On all trained tensors, biases and norms among them."""

    grad_clip: NonNegativeFloat = 1.0
    """Global gradient norm at most; 0 switches it off."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of products; weights, moments and sums are float32 always. `auto` is bf16 on a GPU that multiplies it, else fp32."""

    gradient_checkpointing: bool = False
    """Backbones compute their activations again in the backward pass: less memory, a third more time."""

    compile: bool = False
    """torch.compile of the backbones; refused where it cannot run."""

    train_embeddings: bool = True
    """phase 1: token embeddings (and a head that is tied to them) are trained, too; without them an update of a small language
    model costs a fraction."""

    token_mask_rate: float = Field(default=0.1, ge=0, lt=1)
    """phase 1: share of step tokens hidden from attention in training."""

    noise: NonNegativeFloat = 0.01
    """phase 1: standard deviation of the noise on codes in training; their length is 1."""

    shuffle: bool = True
    """Every epoch has an order of its own, of the seed; false keeps that of the file."""

    bucket: PositiveInt = 32
    """Steps of like length go together within so many batches of the shuffled order, for less padding; 1: no."""

    evaluations_per_epoch: PositiveFloat = 2.0
    """How often the validation steps are read; 0.5 is every second epoch."""

    keep: Literal["best", "last", "all"] = "best"
    """Weights that are kept: those of the least validation loss, of the last update, or of every evaluation in files of their own,
    each as large as the language models together."""

    @classmethod
    def defaults(cls, given: dict[str, Any]) -> dict[str, Any]:
        values = PHASES.get(_phase(given), PHASES[1])
        return values | {"decay_epochs": given.get("epochs", values["epochs"])}

    @model_validator(mode="after")
    def _coherent(self) -> "SsaeTraining":
        if self.batch % self.micro_batch:
            raise ValueError(
                f"ssae.training.micro_batch must divide ssae.training.batch = {self.batch}; got {self.micro_batch}. "
                "Change one of the two."
            )
        if self.warmup_epochs >= (end := min(self.epochs, self.decay_epochs)):
            raise ValueError(
                f"ssae.training.warmup_epochs must be below ssae.training.epochs and decay_epochs, the lesser of which is {end}; "
                f"got {self.warmup_epochs:g}. Lower it."
            )
        if self.min_lr > self.lr:
            raise ValueError(f"ssae.training.min_lr must be at most ssae.training.lr = {self.lr}; got {self.min_lr}. Lower it.")
        return self


def _phase(given: dict[str, Any]) -> int:
    """The phase as its field will read it; of what that refuses, the first."""
    try:
        return TypeAdapter(int).validate_python(given.get("phase", 1))
    except ValidationError:
        return 1


class SsaeSparsity(Filled):
    """The weight of the codes' L1 norm in the loss, led so that the norm comes to `ssae.target_l1`."""

    controller: Literal["stepwise", "predictive"] = "stepwise"
    """`stepwise`: the weight moves by a fixed share at fixed intervals, as in the SSAE paper; `predictive`: with every update, by
    the distance from the target that is to be expected some updates ahead."""

    start_weight: PositiveFloat = 1e-4
    """Weight at the start."""

    min_weight: PositiveFloat = 1e-6
    """Weight at least."""

    max_weight: PositiveFloat = 0.1
    """Weight at most."""

    every: PositiveInt = 100
    """stepwise: micro-batches over which the norm is averaged before each change."""

    factor: float = Field(default=0.01, gt=0, lt=1)
    """stepwise: the weight grows by this share where the mean is above the target, else shrinks by it."""

    gain: PositiveFloat = 0.15
    """predictive: log weight moves by gain · (e + lookahead · ė), e the smoothed log(norm / target) and ė its last change."""

    lookahead: NonNegativeFloat = 30.0
    """predictive: updates ahead; it takes the weight back while the norm still moves, which otherwise swings."""

    smoothing: float = Field(default=0.8, ge=0, lt=1)
    """predictive: share of the last e in the next."""

    max_change: PositiveFloat = 0.2
    """predictive: log weight moves by this at most with one update."""

    @model_validator(mode="after")
    def _ordered(self) -> "SsaeSparsity":
        if not self.min_weight <= self.start_weight <= self.max_weight:
            raise ValueError(
                f"ssae.sparsity.start_weight must lie within [min_weight, max_weight] = [{self.min_weight}, {self.max_weight}]; "
                f"got {self.start_weight}. Change it or the bounds."
            )
        return self


class SsaeLegacy(Section):
    """What the code of the SSAE paper does otherwise, each off by default and told in the manifest of what was made with it."""

    masked_readout: bool = False
    """In training, codes are read and the decoder is fed as if masked tokens made the step shorter: labels leak."""

    eval_noise: bool = False
    """Codes are noisy in evaluation, too."""

    phase3_raw: bool = False
    """Phase 3 regresses codes before their normalisation, on the mean of all context states."""

    raw_prior: bool = False
    """Codes drawn from the prior are not normalised."""

    double_bos: bool = False
    """Tokenizers with a start token put another one in front of the step; cutting a context at its start loses the first."""

    numina_join: bool = False
    """numina: lines and sentences are joined without a blank."""

    local_controller: bool = False
    """Every process leads a weight of its own by its own steps."""

    sum_accumulation: bool = False
    """Gradients of micro-batches are summed, not averaged, before they are clipped."""

    drop_tail: bool = False
    """Micro-batches that fill no whole update at the end of an epoch are left out."""

    topk_over_topp: bool = False
    """Sampling: top_p is ignored where top_k is above 0."""

    scalar_parse: bool = False
    """The settings were read as that code reads `--set`: unknown keys accepted, 1_000 a number, 0x10 a text."""
