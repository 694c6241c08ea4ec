"""How an SAE is trained, checked when it is made."""

from dataclasses import dataclass
from typing import Literal

CHOICES = {
    "schedule": ("constant", "linear", "cosine", "restarts"),
    "precision": ("fp32", "bf16"),
    "aux_target": ("residual", "input"),
    "keep_epoch": ("best", "last"),
    "resample_from": ("residual", "worst_quartile", "squared_loss"),
}


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long, how fast and with which repairs an SAE is trained. All rates and coefficients are per update."""

    lr: float
    """Peak learning rate of Adam."""

    updates: int
    """Updates in all."""

    updates_per_epoch: int
    """Updates between two validations; `updates` must be a multiple of it."""

    batch: int
    """Rows per update."""

    schedule: Literal["constant", "linear", "cosine", "restarts"] = "cosine"
    """What the learning rate does after its warm-up, down to `lr_floor` of its peak at the last update: nothing, a straight line,
    half a cosine, or a cosine from the peak again every `restart_updates` (Loshchilov and Hutter 2017)."""

    lr_floor: float = 0.1
    """Share of `lr` at which the schedule ends."""

    warmup_updates: int = 0
    """Updates over which the learning rate rises linearly to `lr`."""

    restart_updates: int = 0
    """Updates of one cycle of the schedule `restarts`."""

    beta1: float = 0.9
    """Adam's decay of the first moment."""

    beta2: float = 0.999
    """Adam's decay of the second moment."""

    eps: float = 1e-8
    """Adam's ε."""

    grad_clip: float = 1.0
    """Largest global norm of the gradient."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the products with W_enc and of dense products; weights, moments and sums stay float32."""

    unit_decoder: bool = True
    """Rows of W_dec get norm 1 after every update."""

    frozen_decoder: bool = False
    """The decoder rows stay the directions that they start as, a control: what does the encoder alone learn?"""

    project_decoder: bool = False
    """The gradient of a row of W_dec first loses its part along the row (Bricken et al. 2023)."""

    aux_coef: float = 1 / 32
    """Weight of the auxiliary loss on dead latents of kinds that select by k; 0 switches it off."""

    aux_k: int = 512
    """Dead latents used per row by the auxiliary loss; all of them where there are no more."""

    aux_target: Literal["residual", "input"] = "residual"
    """What the dead latents reconstruct: the detached residual (Gao et al. 2024) or the input (OhhMoo SAE-RL)."""

    sparsity_coef: float = 0.0
    """λ of kinds that pay for activity (relu, jumprelu, gated), beside a squared error that is a mean over elements. SAELens sums
    the error over elements instead: its coefficient is this times d_model."""

    sparsity_warmup_updates: int = 0
    """Updates over which λ rises linearly from 0."""

    target_l0: float | None = None
    """jumprelu: active latents per row to train towards; None pays for each of them."""

    bandwidth: float = 0.05
    """jumprelu: ε, width around a threshold within which codes move it, in units of the normalised rows."""

    threshold_lr_multiple: float = 1.0
    """jumprelu: the learning rate of thresholds over `lr`. An update moves a pre-activation by up to lr · Σ|x'|, a threshold by lr:
    beside rows of norm √d_model it is √d_model times slower than beside rows of norm 1, those of Rajamanoharan et al. 2024b."""

    threshold_rate: float = 0.01
    """batchtopk: share by which the threshold moves towards the smallest kept activation of each batch."""

    dead_rate: float = 1e-4
    """A latent is dead when it fired on less than this share of the rows since firing was last counted from 0."""

    resample_epochs: int = 0
    """Dead latents are re-initialised after every so many epochs, never after the last; 0: never."""

    resample_updates: int = 0
    """The same, counted in updates; 0: never."""

    resample_rows: int = 0
    """The same, counted in rows, at the first update that reaches them; 0: never."""

    resample_from: Literal["residual", "worst_quartile", "squared_loss"] = "residual"
    """What dead latents are pointed at. `residual`: what the SAE leaves over of a row, each with the bias that lowers the error of
    the sampled rows most, one after the other. Published recipes, after which the error may be many times what it was where rows
    are alike: `worst_quartile`, a row of the quarter with the largest error, encoder rows of norm 1 (OhhMoo SAE-RL);
    `squared_loss`, a row drawn in proportion to the square of its squared error, encoder rows of a fifth of the living latents'
    mean norm (Bricken et al. 2023)."""

    keep_epoch: Literal["best", "last"] = "best"
    """Which epoch's SAE is the result: that of the least held-out nmse, or the last; a price of activity makes early epochs denser
    and so better in nmse, not better."""

    keep_moments: bool = False
    """Adam's moments are part of the result, so that a warm start can go on from them, too."""

    patience: int = 0
    """Epochs without a better held-out nmse after which training ends early; 0: never."""

    seed: int = 0
    """Seed of the rows drawn for re-initialisation."""

    def __post_init__(self) -> None:
        for name in (
            "lr",
            "updates",
            "updates_per_epoch",
            "batch",
            "grad_clip",
            "aux_k",
            "bandwidth",
            "eps",
            "threshold_lr_multiple",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0; got {getattr(self, name)}. Raise it.")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}; got {getattr(self, name)!r}. Choose one of them.")
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
        if self.schedule == "restarts" and self.restart_updates < 1:
            raise ValueError(
                f"restart_updates must be at least 1 with restarts; got {self.restart_updates}. Give the cycle's length."
            )
        if self.patience and self.keep_epoch == "last":
            raise ValueError(
                f"patience must be 0 where the last epoch is kept; got {self.patience}. Keep the best, or train to the end."
            )
        if self.target_l0 is not None and not self.target_l0 > 0:
            raise ValueError(f"target_l0 must be above 0, or None; got {self.target_l0}. Raise it.")
        if self.frozen_decoder and any(getattr(self, name) for name in ("resample_epochs", "resample_updates", "resample_rows")):
            raise ValueError(
                "With frozen_decoder no latent may get another direction; got resample_epochs, resample_updates and resample_rows "
                f"{self.resample_epochs}, {self.resample_updates} and {self.resample_rows}. Set all to 0."
            )
        if sum(getattr(self, name) > 0 for name in ("resample_epochs", "resample_updates", "resample_rows")) > 1:
            raise ValueError(
                "At most one of resample_epochs, resample_updates and resample_rows may be above 0; got "
                f"{self.resample_epochs}, {self.resample_updates} and {self.resample_rows}. Keep one."
            )

    @property
    def epochs(self) -> int:
        """Passes over the rows."""
        return self.updates // self.updates_per_epoch
