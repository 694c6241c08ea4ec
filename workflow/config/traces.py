"""Section `traces`: sampled solutions and the text sets made of them."""

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from workflow.config.section import Section

Text = Literal["fixed", "replayed", "onpolicy"]


class PoolProblems(Section):
    train: NonNegativeInt = 96
    """Of the split train, whose steps probes are fitted on; problems of val and test are never among them."""

    val: NonNegativeInt = 32
    """Of the split val, on which whatever has to be chosen is chosen."""

    test: NonNegativeInt = 64
    """Of the split test, on which probes and votes are scored."""


class PoolConfig(Section):
    problems: PoolProblems = PoolProblems()
    """Problems of lowest rank that each policy of `probes` solves; of a smaller split, all."""

    samples: PositiveInt = 6
    """Sampled solutions per problem."""

    temperature: NonNegativeFloat = 1.0
    """Sampling temperature; 0 is greedy."""

    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus: the smallest set of tokens with at least this probability is sampled from."""

    max_new_tokens: PositiveInt | None = None
    """Longest response; null: traces.max_new_tokens."""

    seed: int = 1
    """Seed of sampling; with that of traces, the pool begins with the solutions of `onpolicy`."""


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

    pool: PoolConfig = PoolConfig()
    """The text set `pool`: many solutions of each problem, for probes and votes."""

    @property
    def pool_tokens(self) -> int:
        """Longest response in the pool."""
        return self.pool.max_new_tokens or self.max_new_tokens
