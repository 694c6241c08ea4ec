"""Section `probes`: what is read of reasoning steps, and what is known of them."""

from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, field_validator

from workflow.config.endpoint import EndpointConfig
from workflow.config.probe_fits import ProbeFitsConfig
from workflow.config.section import Section

Pooling = Literal["last", "mean", "max"]


class FeaturesConfig(Section):
    pooling: list[Pooling] = ["last", "mean", "max"]
    """What is made of the codes of a step's tokens: those of the last one, their mean, of each latent the largest in size."""

    random_projection: bool = True
    """Also the largest entries of a random map, as many of as many as the SAE has latents."""

    untrained: bool = True
    """Also codes of every SAE as it was before its first update."""

    seed: int = 0
    """Seed of the random map."""


class ValueConfig(Section):
    continuations: NonNegativeInt = 0
    """Continuations that the policy samples from the end of every step of the pool; the share that is right is the value of the
    step (Wang et al. 2024, Math-Shepherd). 0: none."""

    temperature: NonNegativeFloat = 1.0
    """Sampling temperature; 0 is greedy."""

    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus."""

    max_new_tokens: PositiveInt | None = None
    """Longest continuation; null: that of the pool."""

    seed: int = 0
    """Seed of sampling."""


class JudgeConfig(EndpointConfig):
    answers: Literal["json", "lines"] = "json"
    """What is asked for, and nothing else is read: `json`, {"correct": true, "logical": false}; `lines`, `Conclusion: Correct` and
    `Logicality: Illogical`, as the judge of the SSAE paper answers."""


class ProbesConfig(Section):
    runs: list[str] | None = None
    """RL runs whose stages get a pool of solutions and probes; null: all."""

    stages: list[str] | None = None
    """Stages that get them, such as [base, ppo_0016]; null: base and the last one; []: no probes."""

    labels: str | None = None
    """File of labels of your own, .csv, .jsonl or .parquet: the columns `trace` and, for labels of steps, `step`, where there are
    several runs also `run`; every other column is a label. null: none."""

    constants: list[float] = [1, 2, 7, 10, 12, 24, 52, 60, 100, 365, 1000]
    """Numbers that a logical step may use although nobody has named them."""

    features: FeaturesConfig = FeaturesConfig()
    """Features beside the SAEs' codes."""

    value: ValueConfig = ValueConfig()
    """Monte-Carlo value of steps."""

    judge: JudgeConfig | None = None
    """An OpenAI-compatible endpoint that is asked for a verdict on every step of the pool, such as {url: http://localhost:8000/v1,
    model: name}; null: nobody is asked."""

    fits: ProbeFitsConfig = ProbeFitsConfig()
    """The probes themselves."""

    @field_validator("runs", "stages")
    @classmethod
    def _once(cls, values: list[str] | None, info: Any) -> list[str] | None:
        if values is not None and (len(set(values)) < len(values) or not (values or info.field_name == "stages")):
            raise ValueError(f"probes.{info.field_name} must hold each value once and one at least; got {values}. Correct it.")
        return values
