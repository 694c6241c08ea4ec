"""Settings of what is measured over stages that read the same rows: parts of the section `drift`."""

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator

from workflow.config.section import Section


class RepresentationConfig(Section):
    """How alike the rows of two stages are, before any SAE."""

    variance_shares: list[float] = [0.9, 0.99]
    """Principal angles are between the subspaces that hold these shares of the variance of the earlier stage."""

    span_directions: list[PositiveInt] = [32, 128]
    """The change is split into what lies inside the span of so many decoder rows of the base SAE, those of most energy, and the
    rest; at most d_sae."""

    jackknife_groups: int = Field(default=20, ge=2)
    """Groups of prompts that are left out in turn, for the intervals; as many as there are prompts at most."""

    @field_validator("variance_shares")
    @classmethod
    def _shares(cls, values: list[float]) -> list[float]:
        if not all(0 < value <= 1 for value in values):
            raise ValueError(
                f"drift.representation.variance_shares must be above 0 and at most 1; got {values}. Give shares such as 0.9."
            )
        return sorted(set(values))

    @field_validator("span_directions")
    @classmethod
    def _directions(cls, values: list[int]) -> list[int]:
        return sorted(set(values))


class CrosscoderSettings(Section):
    """One dictionary for all stages at once, trained on paired rows: the check on what the chains of SAEs say."""

    enabled: bool = True
    """Whether a crosscoder is trained, where the text `fixed` is extracted."""

    seeds: list[int] = [0]
    """Seeds of its directions and of the order of rows."""

    train_share: float = Field(default=0.5, gt=0, lt=1)
    """Share of the problems of `test` whose rows it is trained on, beside all of `val`; it is measured on the others. These are the
    problems that every stage has rows of."""

    expansion: PositiveInt = 2
    """d_sae over d_model of one stage."""

    k: PositiveInt = 32
    """Latents kept per row on average, for all stages together."""

    epochs: PositiveInt = 10
    """Passes over the rows; the last one's weights are kept."""

    measured_every: PositiveInt = 5
    """Epochs from one measurement of nmse and l0 on held-out rows to the next; the last epoch is always measured."""

    batch: PositiveInt = 256
    """Rows per update."""

    lr: PositiveFloat = 0.002
    """Peak learning rate of Adam; it falls to a tenth along half a cosine."""

    aux_coef: NonNegativeFloat = 1 / 32
    """Weight of the auxiliary loss on dead latents, as saes.aux_coef; 0 switches it off."""

    threshold_rate: float = Field(default=0.1, gt=0, le=1)
    """As saes.threshold_rate."""

    buffer_rows: PositiveInt = 65536
    """Rows of all stages held in memory and shuffled together."""

    exclusive: float = Field(default=0.1, gt=0, lt=0.5)
    """A latent is gone when its relative decoder norm is below this, new when it is above 1 − this (Minder et al. 2025)."""

    rotated_cosine: float = Field(default=0.8, gt=-1, lt=1)
    """A latent of both stages is rotated when the cosine of its two decoder rows is below this."""

    error_ratio: PositiveFloat = 0.2
    """A new or gone latent is shrunk when the other stage's error holds at least this share of it (Minder et al. 2025)."""

    reconstruction_ratio: PositiveFloat = 0.5
    """It is decoupled when the other stage's reconstruction holds at least this share of it (Minder et al. 2025)."""

    @field_validator("seeds")
    @classmethod
    def _seeds(cls, values: list[int]) -> list[int]:
        if not values or len(set(values)) < len(values):
            raise ValueError(f"drift.crosscoder.seeds must name at least one seed, each once; got {values}. Correct the list.")
        return sorted(values)
