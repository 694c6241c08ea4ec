"""Section `ssae`: step-level SAEs, one sparse code for a whole reasoning step between two language models."""

from typing import Any, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from workflow.config.design import Chain
from workflow.config.filled import Filled
from workflow.config.ssae_data import GivenSsae, SsaeData
from workflow.config.ssae_presets import preset_values
from workflow.config.ssae_training import SsaeLegacy, SsaeSparsity, SsaeTraining


class SsaeConfig(Filled):
    preset: str | None = None
    """Settings by name that hold where a key below is null: `small`, an SSAE of the first two blocks trained in minutes, or a
    published SSAE such as gsm8k-385k_Qwen2.5-0.5b_spar-10; null: those of the SSAE paper's code."""

    runs: list[str] | None = None
    """RL runs whose stages get SSAEs; null: all."""

    stages: list[str] = []
    """Stages that get one, such as [base, ppo_0016]; []: no SSAEs."""

    chains: list[Chain] = ["real"]
    """As design.chains, for SSAEs."""

    seeds: list[int] = [0]
    """Seeds of initialisation, order of steps, token masks and noise."""

    source: Literal["fresh", "continued", "given"] = "fresh"
    """`fresh`: trained from language models and a fresh bottleneck; `continued`: trained from `given`, as phases 2 and 3 are;
    `given`: used as it is. null: the preset's, else fresh."""

    given: GivenSsae = GivenSsae()
    """The SSAE that `continued` starts from and `given` uses."""

    base_model: str | None = None
    """Language model of encoder and decoder: a hub id or a folder, whatever the SSAE's file says of it. null: the preset's, else
    the stage's own policy."""

    revision: str | None = None
    """Revision of that hub id; null is the newest."""

    blocks: PositiveInt | None = None
    """First transformer blocks of the language models that are kept, for a small SSAE; null: all."""

    factor: PositiveInt = 1
    """Soft tokens per code, c; the code has c · d_model latents. null: the preset's, else 1."""

    target_l1: float = Field(default=10.0, ge=1)
    """L1 norm that codes of Euclidean length 1 are trained towards, from 1 (one latent) to √(c · d_model) (all alike); n² latents
    are active at least at a norm of n. null: the preset's, else 10."""

    initialisation: Literal["random", "at_target"] = "random"
    """Of the bottleneck: `random`, as in the SSAE paper's code; `at_target`: scaled by the first training steps so that
    pre-activations and soft tokens have variance 1 and codes the norm target_l1, and centred on them while it is trained, also
    where it goes on from another SSAE's; null: the preset's, else random."""

    sparsity: SsaeSparsity = SsaeSparsity()
    """How the price of that norm is led."""

    data: SsaeData = SsaeData()
    """The reasoning steps."""

    training: SsaeTraining = SsaeTraining()
    """Training of one SSAE."""

    legacy: SsaeLegacy = SsaeLegacy()
    """Behaviour of the code of the SSAE paper, for comparison with it alone."""

    @classmethod
    def defaults(cls, given: dict[str, Any]) -> dict[str, Any]:
        return preset_values(str(given["preset"])) if "preset" in given else {}

    @field_validator("chains", mode="before")
    @classmethod
    def _unquoted_null(cls, chains: Any) -> Any:
        """YAML reads a bare `null` in a list as nothing; here it can only mean the chain."""
        return ["null" if chain is None else chain for chain in chains] if isinstance(chains, list) else chains

    @field_validator("runs", "stages", "chains", "seeds")
    @classmethod
    def _once(cls, values: list | None, info: Any) -> list | None:
        if values is not None and (len(set(values)) < len(values) or not (values or info.field_name == "stages")):
            raise ValueError(f"ssae.{info.field_name} must hold each value once and one at least; got {values}. Correct it.")
        return values

    @model_validator(mode="after")
    def _coherent(self) -> "SsaeConfig":
        if "real" not in self.chains:
            raise ValueError(f"ssae.chains must hold `real`, the others are its controls; got {self.chains}. Add it.")
        if self.training.phase > 1 and self.source == "fresh":
            raise ValueError(
                f"Phases 2 and 3 must start from an SSAE of phase 1; got ssae.training.phase = {self.training.phase} with "
                "ssae.source = fresh. Set ssae.source=continued and name the file in ssae.given.model."
            )
        if self.source != "fresh" and not self.given.model:
            raise ValueError(
                f"ssae.given.model must name an SSAE where ssae.source is {self.source}; it is null. "
                "Give a file, a folder or a hub id, or set ssae.source=fresh."
            )
        if self.legacy.double_bos and self.data.format == "traces":
            raise ValueError(
                "ssae.legacy.double_bos must be false for the format traces, whose ids are read as they were sampled; got true. "
                "Set it to false, or name another ssae.data.format."
            )
        return self
