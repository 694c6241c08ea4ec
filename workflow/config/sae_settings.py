"""What one SAE is trained with: the settings of section `saes` that a kind or a layer may have of its own."""

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from workflow.config.section import Section

Kind = Literal["topk", "topk_signed", "topk_absolute", "batchtopk", "matryoshka_batchtopk", "relu", "jumprelu", "gated"]
TOPK = ("topk", "topk_signed", "topk_absolute")
SELECTING = (*TOPK, "batchtopk", "matryoshka_batchtopk")
"""Kinds whose latents compete for k places."""
PRICED = ("relu", "jumprelu", "gated")
"""Kinds that pay for activity; a price that still rises makes early epochs denser and so better in nmse, their last epoch is
kept."""
RESAMPLING = ("resample_epochs", "resample_updates", "resample_rows")


class SaeSettings(Section):
    """Settings of one SAE's training on one hop."""

    k: PositiveInt = 32
    """Latents kept per row; on average over a batch for batchtopk and matryoshka_batchtopk."""

    expansion: PositiveInt = 4
    """d_sae = expansion × d_model."""

    normalise: Literal["rms", "none", "row_norm", "layer_norm"] = "rms"
    """`rms`: rows are divided by one number per layer, fixed at `base`: mean square norm d_model then; `none`: raw rows;
    `row_norm`: each row gets the norm √d_model; `layer_norm`: each row loses its mean and is divided by its standard deviation."""

    pre_bias: Literal["own", "decoder", "none"] = "own"
    """What is subtracted before the encoder: a vector of its own (OhhMoo SAE-RL), the decoder's bias (Gao et al. 2024) or
    nothing."""

    widths: list[float] = [0.0625, 0.125, 0.25, 0.5, 1.0]
    """matryoshka_batchtopk: shares of d_sae whose first latents reconstruct by themselves, rising to 1."""

    epochs: PositiveInt = 5
    """Passes over the rows of a hop."""

    patience: NonNegativeInt = 0
    """Epochs without a better held-out nmse after which a hop ends early; 0: never."""

    batch: PositiveInt = 512
    """Rows per SAE update."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the products with the encoder and of dense products; weights, moments and sums are float32 always."""

    lr: PositiveFloat = 1e-3
    """Peak learning rate of Adam."""

    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Adam's decay of the first moment."""

    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Adam's decay of the second moment."""

    eps: PositiveFloat = 1e-8
    """Adam's ε."""

    schedule: Literal["constant", "linear", "cosine", "restarts"] = "cosine"
    """The learning rate of each hop after its warm-up: `constant`; `linear` or `cosine` down to `lr_floor`; `restarts`: cosines of
    `restart_updates` each (Loshchilov and Hutter 2017)."""

    lr_floor: float = Field(default=0.1, ge=0, le=1)
    """The schedule of each hop ends at this share of `lr`."""

    warmup_updates: NonNegativeInt = 0
    """Updates over which the learning rate rises linearly at the start of each hop."""

    restart_updates: NonNegativeInt = 0
    """Updates of one cycle of the schedule `restarts`."""

    grad_clip: PositiveFloat = 1.0
    """Global gradient norm at most."""

    frozen_decoder: bool = False
    """Decoder rows stay the random directions that they start as, and no latent is re-initialised: a control, what the encoder
    alone learns."""

    project_decoder: bool = False
    """Gradients of decoder rows lose their part along the row (Bricken et al. 2023)."""

    warm_moments: bool = False
    """A hop goes on from Adam's moments of the SAE it starts from, with their step count; they triple sae.safetensors."""

    sparsity_coef: NonNegativeFloat = 0.0
    """λ of relu, jumprelu and gated, the price of activity beside a squared error per element: SAELens' coefficient / d_model."""

    sparsity_warmup_updates: NonNegativeInt = 0
    """Updates over which λ rises linearly from 0, at `base` alone: later hops start from sparse SAEs."""

    target_l0: PositiveFloat | None = None
    """jumprelu: active latents per row to train towards, λ then weighs (l0 / target − 1)²; null pays for each of them."""

    bandwidth: PositiveFloat = 0.5
    """jumprelu: width around a threshold within which rows move it, in units of the normalised rows."""

    initial_threshold: NonNegativeFloat = 1.0
    """jumprelu: threshold of every latent at the start of `base`, in the same units. An update moves it by about `lr` ·
    `threshold_lr_multiple` at most, so a short training must start near where it is to end; long ones may start at a tenth of this,
    with a tenth of the bandwidth."""

    threshold_lr_multiple: PositiveFloat = 10.0
    """jumprelu: thresholds learn at this multiple of `lr`. With 1 they follow too slowly in hops of some hundred updates: rows of
    norm √d_model move pre-activations by far more than `lr`, and l0 sinks below `target_l0` whatever the price."""

    threshold_rate: float = Field(default=0.1, gt=0, le=1)
    """batchtopk, matryoshka_batchtopk: share by which the inference threshold follows each batch's smallest kept activation."""

    aux_coef: NonNegativeFloat = 0.03125
    """Weight of the auxiliary loss on dead latents of kinds with k; 0 switches it off."""

    aux_k_multiple: PositiveInt = 16
    """The auxiliary loss uses min(this × k, number of dead latents) dead latents per row."""

    aux_target: Literal["residual", "input"] = "residual"
    """What the dead latents reconstruct: the residual (Gao et al. 2024) or the input (OhhMoo SAE-RL)."""

    dead_rate: PositiveFloat = 1e-4
    """A latent is dead when it fired on less than this share of the last epoch's rows (or since the last re-initialisation)."""

    resample_epochs: NonNegativeInt = 2
    """Dead latents are re-initialised every so many epochs, never after the last; 0: never."""

    resample_updates: NonNegativeInt = 0
    """The same, counted in updates; 0: never. One rule at a time."""

    resample_rows: NonNegativeInt = 0
    """The same, counted in rows; 0: never."""

    resample_from: Literal["residual", "worst_quartile", "squared_loss"] = "residual"
    """What re-initialised latents point at. `residual`: what the SAE leaves over of a row, each with the bias that lowers the error
    most, one after the other; the error never rises. `worst_quartile` (OhhMoo SAE-RL) and `squared_loss` (Bricken et al. 2023):
    badly reconstructed rows, as published; where rows are alike such latents fire together, and training may not recover."""

    buffer_rows: PositiveInt = 262144
    """Rows held in memory and shuffled together while training."""
