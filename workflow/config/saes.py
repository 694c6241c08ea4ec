"""Section `saes`: sparse autoencoders and the chains that link them."""

from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from workflow.config.section import Section
from workflow.config.traces import Text

Kind = Literal["topk", "topk_signed"]
Chain = Literal["real", "null"]


class LayerOverride(Section):
    """What one layer does differently."""

    k: PositiveInt | None = None
    """Latents kept per row at this layer."""

    expansion: PositiveInt | None = None
    """d_sae over d_model at this layer."""


class SaeSettings(Section):
    """Settings of one SAE's training on one hop."""

    k: PositiveInt = 32
    """Latents kept per row."""

    expansion: PositiveInt = 4
    """d_sae = expansion × d_model."""

    normalise: Literal["rms", "none"] = "rms"
    """`rms`: rows are divided by one number per layer, fixed at `base`: mean square norm d_model then; `none`: raw rows."""

    epochs: PositiveInt = 5
    """Passes over the rows of a hop."""

    batch: PositiveInt = 512
    """Rows per SAE update."""

    lr: PositiveFloat = 1e-3
    """Peak learning rate of Adam."""

    lr_floor: float = Field(default=0.1, ge=0, le=1)
    """The cosine schedule of each hop ends at this share of `lr`."""

    warmup_updates: NonNegativeInt = 0
    """Updates over which the learning rate rises linearly at the start of each hop."""

    grad_clip: PositiveFloat = 1.0
    """Global gradient norm at most."""

    aux_coef: NonNegativeFloat = 0.03125
    """Weight of the auxiliary loss on dead latents; 0 switches it off."""

    aux_k_multiple: PositiveInt = 16
    """The auxiliary loss uses min(this × k, number of dead latents) dead latents per row."""

    aux_target: Literal["residual", "input"] = "residual"
    """What the dead latents reconstruct: the residual (Gao et al. 2024) or the input (OhhMoo SAE-RL)."""

    dead_rate: PositiveFloat = 1e-4
    """A latent is dead when it fired on less than this share of the rows of the last epoch."""

    resample_epochs: NonNegativeInt = 2
    """Dead latents are re-initialised from badly reconstructed rows every so many epochs, never after the last; 0: never."""

    buffer_rows: PositiveInt = 262144
    """Rows held in memory and shuffled together while training."""


class SaesConfig(SaeSettings):
    text: Text = "fixed"
    """Text set whose rows train the SAEs."""

    kinds: list[Kind] = ["topk"]
    """`topk`: ReLU after selection (Gao et al. 2024); `topk_signed`: the largest pre-activations, no ReLU (OhhMoo SAE-RL)."""

    chains: list[Chain] = ["real", "null"]
    """`real`: each stage's SAE starts from the previous stage's; `null`: the same updates on rows of the base policy throughout."""

    seeds: list[int] = [0]
    """SAE seeds: initialisation, row order and resampling."""

    by_layer: dict[str, LayerOverride] = {}
    """Other k or expansion for single layers, by the layer's number in quotes."""

    hop_rows: Literal["fresh", "same"] = "fresh"
    """`fresh`: every hop of a chain trains on its own block of problems; `same`: all on the first block."""

    hop_epochs: PositiveInt | None = None
    """Passes over the rows of a later hop; null is `epochs`."""

    @field_validator("chains", mode="before")
    @classmethod
    def _unquoted_null(cls, chains: Any) -> Any:
        """YAML reads a bare `null` in a list as nothing; here it can only mean the chain."""
        return ["null" if chain is None else chain for chain in chains] if isinstance(chains, list) else chains

    @field_validator("kinds", "chains", "seeds")
    @classmethod
    def _once(cls, values: list) -> list:
        if not values or len(set(values)) < len(values):
            raise ValueError(f"saes.kinds, saes.chains and saes.seeds must hold each value once and one at least; got {values}.")
        return values

    @model_validator(mode="after")
    def _real_chain(self) -> "SaesConfig":
        if "real" not in self.chains:
            raise ValueError(f"saes.chains must hold `real`, the others are its controls; got {self.chains}. Add it.")
        return self

    def settings(self, layer: int, hop: int) -> SaeSettings:
        """What the SAE of one layer and hop is trained with."""
        values = {name: getattr(self, name) for name in SaeSettings.model_fields}
        values |= self.by_layer.get(str(layer), LayerOverride()).model_dump(exclude_none=True)
        if hop and self.hop_epochs is not None:
            values["epochs"] = self.hop_epochs
        return SaeSettings.model_validate(values)
