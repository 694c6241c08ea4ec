"""Section `problems`: where questions with known answers come from and how they are split."""

from typing import Any

from pydantic import Field, NonNegativeFloat, PositiveInt, field_validator, model_validator

from workflow.config.section import Section

SPLITS = ("warmup", "ppo", "train", "val", "test")
"""warmup and ppo train the policies; train, val and test feed the SAEs and everything measured on them."""


class ProblemsConfig(Section):
    source: str = "reasoning_gym:chain_sum"
    """`reasoning_gym:<dataset>`, `gsm8k` (the hub data set), `hub:<dataset id>`, or a path to .jsonl, .json or .parquet."""

    revision: str | None = None
    """Revision of a hub data set; null is the newest."""

    options: dict[str, Any] = {}
    """Options of the reasoning-gym data set, or `{config: main, split: train}` of a hub data set."""

    size: PositiveInt | None = 6000
    """How many problems are drawn from a generator, or read from a file at most; null reads all of a file."""

    question: str = "{question}"
    """Template of the question over the fields of a source row (and of its metadata)."""

    answer: str = "{answer}"
    """Template of the gold answer; of a text that holds the marker `####`, what follows it is the answer."""

    solution: str | None = "{answer}"
    """Template of a reference solution, the text of the set `fixed`; null where the source has none."""

    stratum: str | None = None
    """Template of a difficulty label, kept even between splits; null for one stratum."""

    mixture: dict[str, NonNegativeFloat] = {}
    """Share of each stratum among the problems that policies are trained on, drawn with replacement; empty: as they come."""

    splits: dict[str, NonNegativeFloat] = Field(default_factory=lambda: dict.fromkeys(SPLITS, 1.0))
    """Weights of the splits warmup, ppo, train, val and test; a problem and its near-duplicates share one split."""

    seed: int = 0
    """Seed of generation and of the split."""

    @field_validator("splits")
    @classmethod
    def _known_splits(cls, splits: dict[str, float]) -> dict[str, float]:
        if unknown := sorted(set(splits) - set(SPLITS)):
            raise ValueError(f"problems.splits may name only {', '.join(SPLITS)}; got {', '.join(unknown)}. Rename or remove it.")
        for needed in ("train", "val", "test"):
            if not splits.get(needed):
                raise ValueError(
                    f"problems.splits.{needed} must be above 0, SAEs need it; got {splits.get(needed, 0)}. Give it a weight."
                )
        return splits

    @model_validator(mode="after")
    def _source_is_complete(self) -> "ProblemsConfig":
        if self.source.startswith("reasoning_gym:") and self.size is None:
            raise ValueError("problems.size must be a number for a generator; got null. Set for example problems.size=6000.")
        return self
