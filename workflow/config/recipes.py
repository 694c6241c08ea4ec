"""What a run of the study was trained with, as far as it decides which runs repeat or control each other."""

from typing import NamedTuple

from workflow.config.study import Study

PERMUTED = "permuted"
"""The reward without signal."""


class Recipe(NamedTuple):
    """The settings of one RL run in three parts."""

    reward: str | None
    """None where the run was given."""
    seed: int | None
    rest: str
    """All other settings; of a given run, its name."""

    def repeats(self, other: "Recipe") -> bool:
        """Whether the runs differ in their seed at most."""
        return (self.reward, self.rest) == (other.reward, other.rest)

    def controls(self, other: "Recipe") -> bool:
        """Whether this is the other run with permuted rewards, whatever the seed."""
        return self.reward == PERMUTED != other.reward and self.rest == other.rest


def recipes(study: Study) -> dict[str, Recipe]:
    """The recipe of every run, in the order of the configuration."""
    if study.policies.source == "given":
        return {run: Recipe(None, None, run) for run in study.runs}
    found = {}
    for run, ppo in study.ppo.items():
        settings = ppo.params()
        rest = {name: value for name, value in settings.items() if name not in ("reward", "seed")}
        found[run] = Recipe(settings["reward"], settings["seed"], repr(rest))
    return found
