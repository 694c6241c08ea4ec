"""Section `n2g`: token patterns that explain single latents (Neuron2Graph)."""

from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from workflow.config.endpoint import EndpointConfig
from workflow.config.section import Section

ORIGINAL: dict[str, Any] = {
    "top": 20, "uniform": 0, "rounds": 1, "max_context": 30, "keep": 0.5, "random_tokens": 0, "mean_embedding": False,
    "fixed_token": 1, "importance": 0.75, "substitutes": 5, "strong": 0.5,
}  # fmt: skip
"""What `method: original` sets, whatever the keys say. Source: Foote et al. 2023, the code of apartresearch/Neuron2Graph."""

PUBLISHED_STEPS: dict[str, Any] = {"patterns": 20, "keep": 0.5, "active_above": 0.0, "evaluated_steps": 500}
"""What `steps.method: published` sets. Source: configs/experiment.yaml of Miaow-Lab/SSAE."""


class StepN2gConfig(Section):
    """Patterns of the latents of step-level SAEs, whose codes are one per reasoning step."""

    latents: NonNegativeInt = 0
    """Latents of each SSAE that are mined, those of the largest summed activation; 0: none."""

    method: Literal["patterns", "published"] = "patterns"
    """`published`: as the code of the SSAE paper does it, every setting below at its published value; for comparison alone."""

    patterns: PositiveInt = 20
    """Patterns of a latent at most."""

    keep: float = Field(default=0.5, gt=0, lt=1)
    """Share of the activation that a shortened, or masked, step must keep."""

    active_above: NonNegativeFloat = 0.0
    """A latent is active on a step above this."""

    evaluated_steps: PositiveInt = 500
    """published: held-out steps that patterns are scored on, the first ones; `patterns` scores all."""

    firings: NonNegativeInt = 2
    """patterns: steps that are taken apart for each latent, half of them those on which it is strongest, half drawn from those on
    which it is active and no counted pattern says so; 0: ends are counted alone."""

    @model_validator(mode="before")
    @classmethod
    def _as_published(cls, given: Any) -> Any:
        return given | PUBLISHED_STEPS if isinstance(given, dict) and given.get("method") == "published" else given


class N2gConfig(Section):
    latents: NonNegativeInt | list[NonNegativeInt] = 8
    """Latents of each (run, kind, seed, layer): half of them those whose firing rate changed most from base to the last stage under
    the SAE of base, half random ones that fire about as often; or their numbers. The same at every stage. 0: none."""

    stages: list[str] | None = None
    """Stages whose latents are mined, such as [base, ppo_0016]; null: base and the last of each run."""

    method: Literal["patterns", "original"] = "patterns"
    """`original`: as Neuron2Graph was published: one fixed replacement token, top activations alone, an exact trie; it sets `top`,
    `uniform`, `rounds`, `max_context`, `keep`, replacements, `importance`, `substitutes` and `strong`."""

    top: PositiveInt = 2
    """Rows of a latent that are taken apart because it is strongest there."""

    uniform: NonNegativeInt = 1
    """Rows of a latent that are taken apart in each round, drawn from those on which it is active and no pattern says so yet."""

    rounds: PositiveInt = 1
    """Rounds of taking rows apart and choosing patterns."""

    max_context: PositiveInt = 16
    """Tokens of a context at most, the row's own included, of those that are counted as of those that are taken apart; a latent
    that needs more is explained by the last so many."""

    keep: float = Field(default=0.5, gt=0, lt=1)
    """A context is cut to the shortest end that keeps this share of the activation; a substitute must keep as much."""

    random_tokens: NonNegativeInt = 2
    """Random tokens of the text that each token of a context is replaced with in turn, to see what the activation loses."""

    mean_embedding: bool = True
    """Each is replaced with the mean embedding of the text, too."""

    fixed_token: NonNegativeInt | None = None
    """Each is replaced with this token, too; Neuron2Graph takes 1."""

    importance: float = Field(default=0.5, gt=0, lt=1)
    """A token belongs to the pattern when the activation loses this share without it, on average over replacements."""

    substitutes: NonNegativeInt = 2
    """Tokens that are tried in the place of each important one: others of its class, such as digits, else alike ones."""

    substitutes_from: Literal["embedding", "policy"] = "embedding"
    """Where alike tokens come from: nearest neighbours among input embeddings, or what the policy finds most likely there."""

    max_gap: NonNegativeInt = 4
    """Loose gaps of a pattern span up to this many tokens, or what the context had where that is more."""

    max_patterns: PositiveInt = 16
    """Patterns of a latent at most, and as many of its strong activations."""

    strong: float = Field(default=0.5, gt=0, lt=1)
    """On the prompts of a latent's top activations it counts as active above this share of its largest one in mining."""

    top_prompts: PositiveInt = 20
    """Held-out prompts of a latent's top activations."""

    sample_rows: PositiveInt = 200_000
    """Rows on which patterns are chosen, the first of the hop; top activations come from all."""

    together: PositiveInt = 64
    """Latents mined together: they share forward passes; a killed job loses so many."""

    untrained: NonNegativeInt = 2
    """Latents of an SAE with random weights that are mined beside them, among many those that fire about as often; the line below
    which an explanation tells nothing."""

    seed: int = 0
    """Seed of draws: latents, rows, replacements."""

    drawn: NonNegativeInt = 4
    """Latents whose graphs are drawn as SVG and shown on the page; all are drawn as DOT."""

    steps: StepN2gConfig = StepN2gConfig()
    """Step-level SAEs."""

    labels: EndpointConfig | None = None
    """An OpenAI-compatible endpoint that names latents by their patterns, such as {url: http://localhost:8000/v1, model: name};
    null: rules alone say what they are about."""

    @model_validator(mode="before")
    @classmethod
    def _as_published(cls, given: Any) -> Any:
        return given | ORIGINAL if isinstance(given, dict) and given.get("method") == "original" else given

    @model_validator(mode="after")
    def _replaces_something(self) -> "N2gConfig":
        if not self.random_tokens and not self.mean_embedding and self.fixed_token is None:
            raise ValueError(
                "n2g must replace tokens with something to see what they do; got random_tokens = 0, mean_embedding = false and no "
                "fixed_token. Set one of them."
            )
        if isinstance(self.latents, list) and len(set(self.latents)) < len(self.latents):
            raise ValueError(f"n2g.latents must name each latent once; got {self.latents}. Leave repetitions out.")
        return self
