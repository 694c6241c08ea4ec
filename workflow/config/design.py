"""Section `design`: the factors of the study. Every combination of values is made, and what combinations share is made once."""

from typing import Any, Literal

from pydantic import NonNegativeFloat, NonNegativeInt, field_validator, model_validator

from workflow.config.policies import PpoConfig, check_run_name
from workflow.config.sae_settings import Kind
from workflow.config.section import Section
from workflow.config.traces import Text

Chain = Literal["real", "null", "cold", "repeat"]
MOVED = {"activations": ("layers", "texts"), "policies": ("runs",), "saes": ("kinds", "chains", "seeds")}
"""Factors that a reader may look for in the section of their phase."""


class DesignConfig(Section):
    runs: dict[str, dict[str, Any]] = {"strict": {}}
    """RL runs by name, each with the PPO settings in which it differs from those of `policies`, such as
    {flexible: {reward: flexible}, permuted: {reward: permuted}}; null takes a run out again. Without effect for given policies."""

    kl_sweep: list[NonNegativeFloat] = []
    """KL coefficients at which every run is made once more, as <run>_kl_0p005 for 0.005; its own is left out."""

    rl_seeds: list[int] = []
    """PPO seeds with which every run, those of kl_sweep included, is made once more, as <run>_seed_1; its own is left out."""

    layers: list[NonNegativeInt] = [10, 20]
    """Transformer blocks, counted from 0, whose output residual stream is read."""

    texts: list[Text] = ["fixed", "onpolicy"]
    """Text sets that are run through the policies."""

    kinds: list[Kind] = ["topk"]
    """`topk`: ReLU after selection (Gao et al. 2024); `topk_signed`: the largest pre-activations, no ReLU (OhhMoo SAE-RL);
    `topk_absolute`: the largest in size; `batchtopk` (Bussmann et al. 2024); `matryoshka_batchtopk` (Bussmann et al. 2025); `relu`
    (Bricken et al. 2023); `jumprelu` (Rajamanoharan et al. 2024b); `gated` (Rajamanoharan et al. 2024a)."""

    chains: list[Chain] = ["real", "null"]
    """`real`: each stage's SAE starts from the previous stage's; `null`: the same updates on rows of the base policy throughout;
    `cold`: a fresh SAE per stage with as many updates as its chain `real` has had by then; `repeat`: the SAE of `real` trained
    for one hop more on the rows of its own stage."""

    seeds: list[int] = [0]
    """SAE seeds: initialisation, row order and resampling."""

    @field_validator("runs", mode="before")
    @classmethod
    def _drop_removed(cls, runs: Any) -> Any:
        """A run set to null is taken out again: settings given later can only add to those of config.yaml."""
        return {name: run for name, run in runs.items() if run is not None} if isinstance(runs, dict) else runs

    @field_validator("runs")
    @classmethod
    def _run_names(cls, runs: dict[str, Any]) -> dict[str, Any]:
        for name, own in runs.items():
            check_run_name(name)
            if unknown := sorted(set(own) - set(PpoConfig.model_fields)):
                raise ValueError(
                    f"design.runs.{name} may override only PPO settings ({', '.join(PpoConfig.model_fields)}); "
                    f"got {', '.join(unknown)}. Rename or move it."
                )
        return runs

    @field_validator("chains", mode="before")
    @classmethod
    def _unquoted_null(cls, chains: Any) -> Any:
        """YAML reads a bare `null` in a list as nothing; here it can only mean the chain."""
        return ["null" if chain is None else chain for chain in chains] if isinstance(chains, list) else chains

    @field_validator("kl_sweep", "rl_seeds", "layers", "texts", "kinds", "chains", "seeds")
    @classmethod
    def _once(cls, values: list, info: Any) -> list:
        if len(set(values)) < len(values) or not (values or info.field_name in ("kl_sweep", "rl_seeds")):
            raise ValueError(f"design.{info.field_name} must hold each value once and one at least; got {values}. Correct it.")
        return values

    @model_validator(mode="after")
    def _real_is_there(self) -> "DesignConfig":
        if "real" not in self.chains:
            raise ValueError(f"design.chains must hold `real`, the others are its controls; got {self.chains}. Add it.")
        return self

    def every_run(self, shared: PpoConfig) -> dict[str, PpoConfig]:
        """The PPO settings of every run by name: those of `runs`, then their copies at other KL coefficients and seeds.

        A copy's name tells its value and nothing of the other values, so that another one adds runs and renames none.

        Args:
            shared: what holds for all of them.

        Raises:
            ValueError: settings of a run contradict each other, or a copy has the name of another run.
        """
        common = {name: getattr(shared, name) for name in PpoConfig.model_fields}
        found = {name: PpoConfig.model_validate(common | own) for name, own in self.runs.items()}
        for factor, label, values in (("kl_coef", "kl", self.kl_sweep), ("seed", "seed", self.rl_seeds)):
            copies = [(f"{name}_{label}_{spelled(value)}", run, value) for name, run in found.items() for value in values]
            for name, run, value in copies:
                if value == getattr(run, factor):
                    continue
                if name in found:
                    raise ValueError(
                        f"Every run must have a name of its own; design gives two of them {name}. Rename it in design.runs."
                    )
                found[name] = run.model_copy(update={factor: value})
        return found


def spelled(value: float) -> str:
    """A number as part of a name: 0.005 as 0p005, -1 as m1."""
    return f"{value:g}".replace(".", "p").replace("-", "m").replace("+", "")


def refuse_moved(config: dict[str, Any]) -> None:
    """Refuse a factor in the section of its phase, where nothing would read it.

    Raises:
        ValueError: see there.
    """
    for section, names in MOVED.items():
        for name in names:
            if isinstance(config.get(section), dict) and name in config[section]:
                raise ValueError(
                    f"The factors of a study must stand in the section design; found {section}.{name}. Write design.{name}."
                )
