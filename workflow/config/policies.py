"""Section `policies`: the language models along an RL run, given from outside or trained here with PPO."""

import re
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from workflow.config.section import Section

Reward = Literal["strict", "flexible", "verl_strict", "verl_flexible", "permuted"]
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
RESERVED = ("shared",)


class PpoConfig(Section):
    """Settings of PPO; a run may override each of them."""

    reward: Reward = "strict"
    """Answer rule that rewards; `permuted` deals the strict rewards of a batch out at random, the control without signal."""

    seed: int = 0
    """Seed of problem order, sampling and mini-batches."""

    kl_coef: NonNegativeFloat = 0.005
    """Coefficient of the KL divergence to the start policy; 0 switches it off."""

    kl_in: Literal["reward", "loss"] = "reward"
    """Whether the KL term is subtracted from the reward token by token or added to the loss (the k3 estimator)."""

    batch: PositiveInt = 16
    """Problems (= traces) per PPO update."""

    minibatches: PositiveInt = 2
    """Optimiser steps per epoch over a batch; must divide the batch."""

    epochs: PositiveInt = 1
    """Passes over each batch."""

    lr: PositiveFloat = 1e-4
    """Learning rate of the LoRA weights (AdamW, no weight decay)."""

    value_lr: PositiveFloat = 5e-3
    """Learning rate of the linear value head on the detached last hidden state, scaled to norm 1."""

    gamma: float = Field(default=1.0, ge=0, le=1)
    """Discount of GAE."""

    gae_lambda: float = Field(default=0.95, ge=0, le=1)
    """λ of GAE (Schulman et al. 2016, eq. 16)."""

    clip_ratio: PositiveFloat = 0.2
    """Clip range ε of the probability ratio (Schulman et al. 2017, eq. 7)."""

    value_coef: NonNegativeFloat = 0.5
    """Weight of the value loss."""

    entropy_coef: NonNegativeFloat = 0.0
    """Weight of the entropy bonus."""

    grad_clip: PositiveFloat = 1.0
    """Global gradient norm at most."""

    temperature: PositiveFloat = 1.0
    """Sampling temperature of the rollouts; no top-k, no top-p."""

    max_new_tokens: PositiveInt = 18
    """Longest response of a rollout."""

    lora_rank: PositiveInt = 16
    """Rank of the LoRA adapters on all linear layers."""

    lora_alpha: PositiveInt = 32
    """LoRA scale α."""

    @model_validator(mode="after")
    def _minibatches_divide(self) -> "PpoConfig":
        if self.batch % self.minibatches:
            raise ValueError(
                f"policies.minibatches must divide policies.batch = {self.batch}; got {self.minibatches}. Change one of the two."
            )
        return self


class WarmupConfig(Section):
    """The short supervised format warm-up whose result is the stage `base`."""

    updates: NonNegativeInt = 4
    """Optimiser steps on reference solutions; 0 makes `base` the start model itself."""

    batch: PositiveInt = 16
    """Problems per step."""

    lr: PositiveFloat = 5e-4
    """Learning rate (AdamW, LoRA of the same shape as PPO's)."""

    seed: int = 0
    """Seed of the problem order."""


class GivenStage(Section):
    """One existing stage of an RL run."""

    stage: str
    """`base` or a name that sorts, such as `ppo_0116`."""

    model: str
    """Hub id or local directory of a transformers model, or of the base when `adapter` is set."""

    revision: str | None = None
    """Revision of a hub id."""

    adapter: str | None = None
    """Hub id or local directory of a LoRA adapter, merged into `model`."""

    adapter_revision: str | None = None
    """Revision of the adapter's hub id."""

    update: NonNegativeInt | None = None
    """PPO updates behind this stage; null reads them off the name (`ppo_0116` → 116, `base` → 0)."""

    kl: NonNegativeFloat | None = None
    """Measured KL to the start policy in nats per response, if its trainer logged it; null is reported as unknown."""


class PoliciesConfig(PpoConfig):
    source: Literal["trained", "given"] = "trained"
    """`trained`: warm-up and PPO here; `given`: the stages listed under `given`."""

    model: str = "embedded:SmolLM2-135M-Instruct"
    """Start model of `trained`: `embedded:SmolLM2-135M-Instruct`, a hub id or a local directory."""

    revision: str | None = None
    """Revision of a hub id."""

    warmup: WarmupConfig = WarmupConfig()
    """The format warm-up that makes `base`."""

    stages: list[PositiveInt] = [8, 16]
    """PPO updates after which a stage is saved (merged); they become ppo_0008, ppo_0016."""

    given: dict[str, list[GivenStage]] = {}
    """Existing stages by run, `base` first; used with `source: given`."""

    @field_validator("given", mode="before")
    @classmethod
    def _drop_removed(cls, runs: Any) -> Any:
        """A run set to null is taken out again: settings given later can only add to those of config.yaml."""
        return {name: run for name, run in runs.items() if run is not None} if isinstance(runs, dict) else runs

    @model_validator(mode="after")
    def _coherent(self) -> "PoliciesConfig":
        if self.stages != sorted(set(self.stages)):
            raise ValueError(f"policies.stages must rise without repeats; got {self.stages}. Sort them.")
        if self.source == "given":
            _check_given(self.given)
        return self


def check_run_name(name: str) -> None:
    """Refuse what cannot stand in the place of a run.

    Raises:
        ValueError: see there.
    """
    if not NAME.fullmatch(name) or name in RESERVED:
        raise ValueError(f"A run's name must be letters, digits and _ and not {', '.join(RESERVED)}; got {name!r}. Rename the run.")


def _check_given(given: dict[str, list[GivenStage]]) -> None:
    if not given:
        raise ValueError("policies.given must list the stages of a run when policies.source is given; got none. List them.")
    bases = {(stages[0].model, stages[0].revision, stages[0].adapter) for stages in given.values() if stages}
    if len(bases) > 1:
        raise ValueError(f"All runs must share one base policy; got {len(bases)} different ones. Split them into two studies.")
    for run, stages in given.items():
        check_run_name(run)
        names = [entry.stage for entry in stages]
        if len(names) < 2 or names[0] != "base" or len(set(names)) < len(names):
            raise ValueError(
                f"policies.given.{run} must list `base` first, then at least one more stage, each once; got {names}. Reorder it."
            )
        for entry in stages:
            if not NAME.fullmatch(entry.stage) or entry.stage in ("start", "reference", "replay"):
                raise ValueError(f"A stage's name must be letters, digits and _; got {entry.stage!r}. Name it like ppo_0116.")
            if entry.update is None and entry.stage != "base" and not re.search(r"\d+$", entry.stage):
                raise ValueError(f"Stage {entry.stage!r} must tell its PPO updates in its name or in `update`. Add update: N.")
        updates = [given_update(entry) for entry in stages]
        if updates != sorted(set(updates)):
            raise ValueError(f"Stages of policies.given.{run} must rise in PPO updates; got {updates}. Reorder them.")


def given_update(entry: GivenStage) -> int:
    """PPO updates behind a given stage: stated, or read off its name."""
    if entry.update is not None:
        return entry.update
    return 0 if entry.stage == "base" else int(re.search(r"\d+$", entry.stage).group())  # type: ignore[union-attr]  # checked above
