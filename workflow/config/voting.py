"""Section `voting`: answers by votes of several sampled traces."""

from typing import Any, Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt, field_validator

from workflow.config.section import Section

Aggregation = Literal["mean", "min", "product", "last"]

PUBLISHED_K, PUBLISHED_TAU = 16, 0.8
"""Source: Miaow-Lab/SSAE, configs/experiment.yaml."""
PUBLISHED_SAMPLING = {"temperature": 0.7, "top_p": 0.9}
"""How the pool of the preset is sampled (traces.pool)."""


class VotingConfig(Section):
    enabled: bool = True
    """Whether the pools of traces are voted on."""

    preset: Literal["ssae_paper"] | None = None
    """`ssae_paper`: k 16, mean of p^0.8 and nothing chosen, on a pool sampled at temperature 0.7 and top-p 0.9; null: the values
    below. Votes counted as the paper's code counts them are in the tables with and without it."""

    k: PositiveInt | None = None
    """Traces per vote of the reported numbers; null: the whole pool."""

    curve: list[PositiveInt] = [1, 2, 4, 8, 16, 32, 64]
    """Numbers of traces of the curves; those beyond the pool are left out."""

    tasks: list[str] = ["correct", "final_strict", "final_flexible"]
    """Tasks whose probes weigh votes, where they were fitted."""

    features: list[str] | None = None
    """Feature sets whose probes do; null: all."""

    aggregations: list[Aggregation] = ["mean", "min", "product", "last"]
    """How the scores of steps make the weight of a trace; chosen among on development problems, of equals the first."""

    taus: list[PositiveFloat] = [0.8, 1.0, 2.0, 4.0, 8.0]
    """Exponents of scores, chosen among in the same way."""

    max_subsets: PositiveInt = 256
    """Subsets of k traces of a pool that are voted on; where there are no more, all of them."""

    flips: PositiveInt = 9999
    """Sign flips of the tests against majority."""

    seed: NonNegativeInt = 0
    """Seed of subsets, of random weights and of flips."""

    @field_validator("curve", "tasks", "aggregations", "taus")
    @classmethod
    def _once(cls, values: list) -> list:
        if not values or len(set(values)) < len(values):
            raise ValueError(f"The lists of voting must hold each value once and one at least; got {values}. Correct it.")
        return values

    def counting(self) -> dict[str, Any]:
        """What a job needs to know, the preset written out."""
        settings = self.params()
        del settings["enabled"], settings["preset"]
        if self.preset:
            settings |= {"aggregations": ["mean"], "k": PUBLISHED_K, "taus": [PUBLISHED_TAU]}
        return settings
