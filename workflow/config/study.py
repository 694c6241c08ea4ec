"""The whole configuration, and the study it describes: runs, stages, hops, chains and who shares what."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError, model_validator

from workflow.config.activations import ActivationsConfig
from workflow.config.compute import ComputeConfig
from workflow.config.design import DesignConfig, refuse_moved
from workflow.config.drift import DriftConfig
from workflow.config.interventions import InterventionsConfig
from workflow.config.n2g import N2gConfig
from workflow.config.overrides import with_overrides
from workflow.config.policies import PoliciesConfig, PpoConfig, given_update
from workflow.config.probes import ProbesConfig
from workflow.config.problems import ProblemsConfig
from workflow.config.prompts import PromptsConfig
from workflow.config.report import ReportConfig
from workflow.config.sae_checks import check_settings, check_use
from workflow.config.saes import SaesConfig
from workflow.config.section import Section, explain
from workflow.config.ssae import SsaeConfig
from workflow.config.traces import TracesConfig
from workflow.config.voting import VotingConfig

SHARED = "shared"
"""In the place of a run: what all runs have in common, so that it exists once."""


class Stage(NamedTuple):
    """A point of an RL run."""

    name: str
    """`base`, `ppo_0010`, …"""
    update: int
    """PPO updates behind it."""
    hop: int
    """Place in its run, 0 for `base`."""


class Study(Section):
    """config.yaml as a whole."""

    design: DesignConfig = DesignConfig()
    compute: ComputeConfig = ComputeConfig()
    problems: ProblemsConfig = ProblemsConfig()
    prompts: PromptsConfig = PromptsConfig()
    policies: PoliciesConfig = PoliciesConfig()
    traces: TracesConfig = TracesConfig()
    activations: ActivationsConfig = ActivationsConfig()
    saes: SaesConfig = SaesConfig()
    drift: DriftConfig = DriftConfig()
    interventions: InterventionsConfig = InterventionsConfig()
    ssae: SsaeConfig = SsaeConfig()
    probes: ProbesConfig = ProbesConfig()
    voting: VotingConfig = VotingConfig()
    n2g: N2gConfig = N2gConfig()
    report: ReportConfig = ReportConfig()

    @model_validator(mode="before")
    @classmethod
    def _factors_stand_in_design(cls, config: Any) -> Any:
        refuse_moved(config)
        return config

    @model_validator(mode="after")
    def _coherent(self) -> "Study":
        if not self.runs:
            raise ValueError("design.runs must name at least one run; got none. Add for example runs: {strict: {}}.")
        if self.policies.source == "given" and (self.design.kl_sweep or self.design.rl_seeds):
            raise ValueError(
                "design.kl_sweep and design.rl_seeds must be empty for given policies, they make copies of runs trained here; got "
                f"{self.design.kl_sweep} and {self.design.rl_seeds}. Empty both, and list the stages of every run under "
                "policies.given."
            )
        check_use(self.saes, self.saes.by_kind, self.design.kinds)
        for kind in self.design.kinds:
            check_settings(kind, self.saes.settings(kind, None, 0))
        return self

    @property
    def runs(self) -> list[str]:
        """Names of the RL runs, in the order of the configuration."""
        return list(self.ppo if self.policies.source == "trained" else self.policies.given)

    @property
    def ppo(self) -> dict[str, PpoConfig]:
        """PPO settings of every trained run by name."""
        return self.design.every_run(self.policies)

    def described(self) -> dict[str, Any]:
        """What a page says of the study: every section but those of machine and page, its runs written out."""
        sections = {name: section for name, section in self.params().items() if name not in ("compute", "report")}
        shared = sections["policies"]
        own = {
            run: {name: value for name, value in settings.params().items() if value != shared[name]}
            for run, settings in self.ppo.items()
        }
        return sections | {"design": sections["design"] | {"runs": own}}

    @property
    def paired_texts(self) -> list[str]:
        """Text sets that run the same tokens through every policy."""
        return [text for text in self.design.texts if text in ("fixed", "replayed")]

    @property
    def with_crosscoder(self) -> bool:
        """Whether one dictionary is trained for all stages."""
        return self.drift.crosscoder.enabled and "fixed" in self.design.texts

    @property
    def intervened_texts(self) -> list[str]:
        """Text sets on which policies are intervened upon."""
        read = self.design.texts
        return list(self.interventions.texts or (["onpolicy"] if "onpolicy" in read else read))

    @property
    def solved_text(self) -> str:
        """The text set whose prompts are answered with an SAE in the place of rows; prompts are the same in all."""
        return self.intervened_texts[0]

    def stages(self, run: str) -> list[Stage]:
        """The stages of a run from `base` on."""
        if self.policies.source == "given":
            updates = [(entry.stage, given_update(entry)) for entry in self.policies.given[run]]
        else:
            updates = [("base", 0), *((f"ppo_{update:04d}", update) for update in self.policies.stages)]
        return [Stage(name, update, hop) for hop, (name, update) in enumerate(updates)]

    def n2g_stages(self, run: str) -> list[str]:
        """Stages of a run whose latents are mined for patterns, in their order."""
        every = [stage.name for stage in self.stages(run)]
        wanted = self.n2g.stages if self.n2g.stages is not None else [every[0], every[-1]]
        return [stage for stage in every if stage in wanted]

    def stage(self, run: str, name: str) -> Stage:
        """One stage of a run by name; of `shared`, the first run's."""
        stages = self.stages(self.runs[0] if run == SHARED else run)
        return next(stage for stage in stages if stage.name == name)

    def before(self, run: str, name: str) -> str:
        """Name of the stage before this one."""
        return self.stages(run)[self.stage(run, name).hop - 1].name

    def parts(self, run: str, text: str, stage: str) -> list[str]:
        """Parts of the stores of one (run, text, stage) that the study reads: `heldout` and `hop_<n>`."""
        if text != self.saes.text:
            return ["heldout"]
        runs = self.runs if run == SHARED else [run]
        readers = [s for r in runs for s in self.stages(r) for chain in self.design.chains if self.source(chain, s.name) == stage]
        return ["heldout", *sorted({self.hop_part(reader) for reader in readers})]

    def hop_part(self, stage: Stage) -> str:
        """The part whose rows train the SAE of this stage."""
        return f"hop_{stage.hop if self.saes.hop_rows == 'fresh' else 0}"

    @staticmethod
    def source(chain: str, stage: str) -> str:
        """Stage whose policy made the rows on which a chain's SAE of `stage` trains."""
        return "base" if chain == "null" else stage

    def parent(self, run: str, chain: str, stage: str) -> tuple[str, str] | None:
        """Chain and stage of the SAE from which a chain's SAE of `stage` is warm-started; None where it starts fresh."""
        if stage == "base" or chain == "cold":
            return None
        return ("real", stage) if chain == "repeat" else (chain, self.before(run, stage))

    @staticmethod
    def home(run: str, text: str, stage: str) -> str:
        """The run under which a stage's files of a text set lie: `base` is shared, but what it reads in `replayed` is not."""
        return SHARED if stage == "base" and text != "replayed" else run


def load_study(config: Mapping[str, Any]) -> Study:
    """The study described by config.yaml and the command line.

    Raises:
        ConfigError: unknown keys (with the nearest known names), wrong types and values out of bounds, a line each.
    """
    try:
        return Study.model_validate(with_overrides(config))
    except ValidationError as error:
        raise explain(error, Study) from None
