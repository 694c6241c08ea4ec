"""Section `interventions`: what the policies lose with an SAE in the place of their rows, and what single latents cause."""

from typing import Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt, field_validator

from workflow.config.section import Section
from workflow.config.traces import Text


class CausalConfig(Section):
    """What happens when latents are silenced, driven, or given the direction that they have at the last stage."""

    latents: NonNegativeInt = 0
    """Latents that turned most beyond the null chain, at the last stage of a run; each costs (draws + 2) · (strengths + 2) passes
    over the texts behind the layer, some minutes for 8 on a CPU. 0: none."""

    draws: PositiveInt = 3
    """Random latents that fire about as often, for each of those: the tails of what any latent does."""

    problems: PositiveInt = 32
    """Problems of the test split whose texts are read."""

    strengths: list[PositiveFloat] = [1.0, 2.0, 4.0]
    """Strengths at which a latent is driven, in units of its own 95th percentile where it is active."""

    seed: int = 0
    """Seed of the random latents."""

    dtype: Literal["auto", "float32", "bfloat16"] = "float32"
    """Number format of the language model here: rounding a row to bfloat16 anew changes predictions as much as silencing a latent
    does. `auto` is that of compute.dtype."""


class SolvingConfig(Section):
    """What the policies answer with an SAE in the place of their rows: greedy, on problems of the test split."""

    problems: NonNegativeInt = 0
    """Problems that every policy solves with each SAE, each ablation and as it is; one answer costs as much as one greedy trace,
    so 100 of 256 tokens take minutes on a GPU and hours on a CPU. 0: none."""

    max_new_tokens: PositiveInt = 256
    """Longest answer."""

    batch: PositiveInt = 32
    """Problems solved together."""


class InterventionsConfig(Section):
    problems: NonNegativeInt = 32
    """Problems of the test split on whose texts SAEs are put in the place of rows and policies are compared; 0: none."""

    texts: list[Text] | None = None
    """Text sets for it; null is onpolicy where design.texts has it, else all of design.texts."""

    ablations: list[Literal["mean", "zero"]] = ["mean", "zero"]
    """What rows are replaced with for the loss that an SAE is measured against: their mean, zero."""

    solving: SolvingConfig = SolvingConfig()
    """Task accuracy with an SAE in the place of rows."""

    causal: CausalConfig = CausalConfig()
    """Interventions on single latents."""

    @field_validator("ablations", "texts")
    @classmethod
    def _once(cls, values: list | None) -> list | None:
        if values is not None and (not values or len(set(values)) < len(values)):
            raise ValueError(
                f"interventions.texts and interventions.ablations must hold each value once and one at least; got {values}. "
                "Correct it."
            )
        return values
