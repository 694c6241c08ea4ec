"""Settings of what is measured over stages that read the same rows: parts of the section `drift`."""

from pydantic import Field, PositiveInt, field_validator

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
