"""Section `traces`: sampled solutions and the text sets made of them."""

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from workflow.config.section import Section

Text = Literal["fixed", "replayed", "onpolicy"]


class TracesConfig(Section):
    splits: list[Literal["train", "val", "test"]] = ["test"]
    """Splits whose problems every policy solves, for the sets `onpolicy` and `replayed`."""

    samples: PositiveInt = 2
    """Sampled solutions per problem."""

    temperature: NonNegativeFloat = 1.0
    """Sampling temperature; 0 is greedy."""

    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus: the smallest set of tokens with at least this probability is sampled from."""

    max_new_tokens: PositiveInt = 24
    """Longest response."""

    batch: PositiveInt = 32
    """Prompts decoded together; it changes speed, not results."""

    seed: int = 0
    """Seed of sampling; every (prompt, sample) has a random stream of its own."""

    engine: Literal["auto", "transformers", "vllm"] = "auto"
    """`auto` uses vLLM where it is installed and a GPU is there, else transformers; which it was stands in provenance.json."""

    greedy_problems: NonNegativeInt = 192
    """Problems of the test split solved greedily by every policy, for its held-out accuracy; 0 for none."""
