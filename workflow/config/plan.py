"""What a study will cost, estimated before it runs: files, rows and space."""

from pathlib import Path
from typing import NamedTuple

from workflow.config.models import ModelShape
from workflow.config.sae_settings import SaeSettings
from workflow.config.study import SHARED, Study

GIB = 2**30
TEMPLATE_TOKENS = 40
"""Tokens of a chat template around a question, roughly."""
CHARACTERS_PER_TOKEN = 3.5


class Plan(NamedTuple):
    """Estimates; rows and bytes may be off by a factor of two, they are meant to refuse the hopeless."""

    policies: int
    """Policies of the study."""
    saes: int
    """SAEs that will be trained."""
    rows: int
    """Rows per layer over all stores."""
    policy_bytes: int
    """Space of policies made here."""
    activation_bytes: int
    """Space of activation shards."""
    sae_bytes: int
    """Space of SAEs."""

    @property
    def bytes_on_disk(self) -> int:
        """Everything together, with a tenth for tables, logs and scratch."""
        return int(1.1 * (self.policy_bytes + self.activation_bytes + self.sae_bytes))

    def describe_disk(self) -> str:
        """The parts of the estimate in words."""
        parts = (("policies", self.policy_bytes), ("activations", self.activation_bytes), ("SAEs", self.sae_bytes))
        return ", ".join(f"{name} {size / GIB:.1f}" for name, size in parts)


def plan_of(study: Study, shape: ModelShape) -> Plan:
    """The cost of a study on a model of this shape."""
    hops = [(run, stage) for run in study.runs for stage in study.stages(run)[1:]]
    tokens = tokens_per_text(study)
    traces = sum(_prompts(study, SHARED, "base", text) * _samples(study, text) for text in study.design.texts)
    traces += sum(
        _prompts(study, run, stage.name, text) * _samples(study, text) for run, stage in hops for text in study.design.texts
    )
    layers = len(study.design.layers)
    itemsize = 4 if study.activations.dtype == "float32" or study.compute.dtype == "float32" else 2
    of_each = len(study.design.seeds) * (1 + len(hops) * len(study.design.chains))
    every = [study.saes.settings(kind, layer, 0) for kind in study.design.kinds for layer in study.design.layers]
    adapters = study.policies.source == "given" and any(
        entry.adapter for stages in study.policies.given.values() for entry in stages
    )
    made = 1 + len(hops) if study.policies.source == "trained" or adapters else 0
    return Plan(
        policies=1 + len(hops),
        saes=of_each * len(every),
        rows=int(traces * tokens),
        policy_bytes=made * shape.parameters * (4 if study.compute.dtype == "float32" else 2),
        activation_bytes=int(traces * tokens) * layers * shape.d_model * itemsize,
        sae_bytes=of_each * sum(sae_numbers(settings, shape.d_model) for settings in every) * 4,
    )


def sae_numbers(settings: SaeSettings, d_model: int) -> int:
    """Numbers in the matrices of one SAE's file."""
    return (6 if settings.warm_moments else 2) * settings.expansion * d_model**2


def _prompts(study: Study, run: str, stage: str, text: str) -> int:
    parts = study.parts(run, text, stage)
    return len(parts) * study.activations.prompts_per_hop


def _samples(study: Study, text: str) -> int:
    return {"fixed": 1, "onpolicy": study.traces.samples, "replayed": 2 * study.traces.samples}[text]


def tokens_per_text(study: Study) -> float:
    """Tokens of one trace, guessed from the source."""
    source = Path(study.problems.source).expanduser()
    if source.suffix == ".jsonl" and source.is_file():
        with source.open(encoding="utf-8", errors="replace") as lines:
            sizes = [len(line) for line, _ in zip(lines, range(200), strict=False)]
        guess = sum(sizes) / max(len(sizes), 1) / CHARACTERS_PER_TOKEN + TEMPLATE_TOKENS
    else:
        guess = TEMPLATE_TOKENS + 20 if study.problems.source.startswith("reasoning_gym:") else 200 + TEMPLATE_TOKENS
    return min(guess, study.activations.max_tokens)
