"""What a study will cost, estimated before it runs: jobs, updates, rows and space."""

import itertools
from pathlib import Path
from typing import NamedTuple

from workflow.config.models import ModelShape
from workflow.config.probe_study import every_pool, pool_stages, probed_runs
from workflow.config.sae_settings import SaeSettings
from workflow.config.ssae_study import compares_step_latents, every_ssae, is_trained, measured_steps, steps_of
from workflow.config.study import SHARED, Study

GIB = 2**30
TEMPLATE_TOKENS = 40
"""Tokens of a chat template around a question, roughly."""
CHARACTERS_PER_TOKEN = 3.5


class Plan(NamedTuple):
    """Estimates; rows, updates and bytes may be off by a factor of two, they are meant to refuse the hopeless."""

    jobs: dict[str, int]
    """Jobs of the whole study by phase, those included that are done."""
    policies: int
    """Policies of the study."""
    ppo_updates: int
    """PPO updates of all runs."""
    saes: int
    """SAEs that will be trained."""
    sae_updates: int
    """Their updates."""
    rows: int
    """Rows per layer over all stores."""
    policy_bytes: int
    """Space of policies made here."""
    activation_bytes: int
    """Space of activation shards."""
    sae_bytes: int
    """Space of SAEs."""
    answers: int = 0
    """Answers written with SAEs in the place of rows, and beside them."""

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
    stores, saes = every_store(study), every_sae(study)
    rows = sum(_rows(study, text, part) for _, text, _, part in stores)
    layers = len(study.design.layers)
    itemsize = 4 if study.activations.dtype == "float32" or study.compute.dtype == "float32" else 2
    sizes = [sae_numbers(study.saes.settings(kind, layer, 0), shape.d_model) for kind, layer, *_ in saes]
    trained = study.policies.source == "trained"
    adapters = any(entry.adapter for stages in study.policies.given.values() for entry in stages)
    hops = _hops(study)
    return Plan(
        jobs=_jobs(study, len(stores), len(saes)),
        policies=1 + len(hops),
        ppo_updates=study.policies.stages[-1] * len(study.runs) if trained and study.policies.stages else 0,
        saes=len(saes),
        sae_updates=sum(_updates(study, *sae) for sae in saes),
        rows=rows,
        policy_bytes=(1 + len(hops)) * shape.parameters * (4 if study.compute.dtype == "float32" else 2) * (trained or adapters),
        activation_bytes=rows * layers * shape.d_model * itemsize,
        sae_bytes=sum(sizes) * 4,
        answers=_answers(study),
    )


def every_store(study: Study) -> list[tuple[str, str, str, str]]:
    """(run, text, stage, part) of every part of a store that the study reads, once each."""
    every = [(SHARED, "base"), *_hops(study)]
    cells = {
        (owner if study.home(owner, text, stage) == owner else SHARED, text, stage, part)
        for run, stage in every
        for text in study.design.texts
        for owner in (study.runs if run == SHARED else [run])
        for part in study.parts(run, text, stage)
    }
    return sorted(cells)


def every_sae(study: Study) -> list[tuple[str, int, str, str, str]]:
    """(kind, layer, chain, run, stage) of every SAE, as often as there are seeds; that of base once for all runs and chains."""
    one = [("real", SHARED, "base"), *((chain, run, stage) for chain in study.design.chains for run, stage in _hops(study))]
    factors = itertools.product(study.design.kinds, study.design.layers, one, study.design.seeds)
    return [(kind, layer, *cell) for kind, layer, cell, _ in factors]


def sae_numbers(settings: SaeSettings, d_model: int) -> int:
    """Numbers in the matrices of one SAE's file."""
    return (6 if settings.warm_moments else 2) * settings.expansion * d_model**2


def _hops(study: Study) -> list[tuple[str, str]]:
    """(run, stage) of every stage behind base."""
    return [(run, stage.name) for run in study.runs for stage in study.stages(run)[1:]]


def _jobs(study: Study, stores: int, saes: int) -> dict[str, int]:
    policies, texts, design = 1 + len(_hops(study)), study.design.texts, study.design
    return {
        "problems": 1,
        "policies": policies + (study.policies.source == "trained"),
        "traces": policies * (1 + bool(study.traces.greedy_problems))
        + ("fixed" in texts)
        + len(study.runs) * ("replayed" in texts)
        + len(every_pool(study)),
        "activations": stores * study.activations.shards,
        "saes": saes // len(design.kinds) if study.saes.together else saes,
        "drift": len(study.runs) * len(texts) * len(design.kinds) * len(design.seeds) * len(design.layers) + 1 + _joint(study),
        "interventions": _interventions(study),
        "ssae": _step_saes(study),
        "n2g": _patterns(study),
        "probes": _probes(study),
        "voting": (len(every_pool(study)) + bool(every_pool(study))) * study.voting.enabled,
        "report": 1,
    }


def _joint(study: Study) -> int:
    """Jobs over stages that read the same rows: how alike these are, crosscoders, what is measured of them, and the tables."""
    cells = len(study.runs) * len(study.design.layers)
    paired, crosscoders = len(study.paired_texts), len(study.drift.crosscoder.seeds) * study.with_crosscoder
    return cells * paired + bool(paired) + 2 * cells * crosscoders + 2 * bool(crosscoders)


def _step_saes(study: Study) -> int:
    """Jobs of the phase ssae: steps tokenised, SSAEs, what is measured of them, and their tables."""
    every = every_ssae(study)
    measured = [at for at in every if measured_steps(study, at.run)]
    read = {steps for at in measured for steps in measured_steps(study, at.run)}
    trained = [at for at in every if is_trained(study, at)]
    if study.ssae.data.format == "traces":
        read |= {steps_of(study, at) for at in trained}
    files = sum(getattr(study.ssae.data, part) is not None for part in ("train", "valid"))
    return len(read) + files * bool(trained) + len(every) + len(measured) + bool(measured) + compares_step_latents(study)


def _probes(study: Study) -> int:
    """Jobs of the phase probes: labels and features of every pool, what is asked for beside them, and probes."""
    pools, layers = every_pool(study), len(study.design.layers)
    asked = bool(study.probes.value.continuations) + bool(study.probes.judge)
    design = study.design
    asked += study.probes.features.frozen_decoder * len(design.kinds) * len(design.seeds) * len(design.layers)
    several = [run for run in probed_runs(study) if len(pool_stages(study, run)) > 1]
    fits = len(pools) * (layers + 2) + study.probes.fits.transfer * layers * len(several) + bool(pools)
    return len(pools) * (2 + asked) + fits


def _patterns(study: Study) -> int:
    """Jobs of the phase n2g: SAEs mined, named, followed from stage to stage, step-level SAEs mined, and the tables."""
    each = len(study.design.kinds) * len(study.design.seeds) * len(study.design.layers)
    asked = 1 + (study.n2g.labels is not None)
    mined = sum(each * (asked * len(study.n2g_stages(run)) + 1) for run in study.runs) * bool(study.n2g.latents)
    steps = len(every_ssae(study)) * (bool(study.n2g.steps.latents) and study.ssae.data.format in (None, "traces"))
    return mined + steps + bool(mined + steps)


def _interventions(study: Study) -> int:
    """Jobs of the phase interventions: splices, comparisons with base, checks of single latents, and their tables."""
    hops, texts, design, wanted = _hops(study), study.intervened_texts, study.design, study.interventions
    each = len(design.kinds) * len(design.seeds) * len(design.layers)
    bases = sum(len(study.runs) if text in study.paired_texts else 1 for text in texts)
    spliced = each * (bases + len(hops) * len(texts)) + len(hops) * len(design.texts) + 1
    checks = each * len(study.runs) * len(texts) + 1
    solved = each * len(_solvers(study)) + 1
    return spliced * bool(wanted.problems) + checks * bool(wanted.causal.latents) + solved * bool(wanted.solving.problems)


def _solvers(study: Study) -> list[str]:
    """Stages of all policies that solve problems with SAEs in the place of rows, as often as they do at one layer."""
    bases = len(study.runs) if study.solved_text == "replayed" else 1
    return ["base"] * bases + [stage for _, stage in _hops(study)]


def _answers(study: Study) -> int:
    """Answers written with SAEs in the place of rows, and beside them."""
    design, wanted = study.design, study.interventions
    behind = 1 + 2 + ("null" in design.chains) + len(wanted.ablations)
    puts = sum(2 + len(wanted.ablations) if stage == "base" else behind for stage in _solvers(study))
    return wanted.solving.problems * puts * len(design.kinds) * len(design.seeds) * len(design.layers)


def _updates(study: Study, kind: str, layer: int, chain: str, run: str, stage: str) -> int:
    """Updates of one SAE; those of a fresh one behind base are as many as its chain has had by then."""
    hop = study.stage(run, stage).hop
    hops = range(hop + 1) if chain == "cold" else [hop]
    settings = [study.saes.settings(kind, layer, number) for number in hops]
    return sum(own.epochs * (_rows(study, study.saes.text, "hop_0") // own.batch) for own in settings)


def _rows(study: Study, text: str, part: str) -> int:
    samples = {"fixed": 1, "onpolicy": study.traces.samples, "replayed": 2 * study.traces.samples}[text]
    return int(_prompts(study, text, part) * samples * tokens_per_text(study))


def _prompts(study: Study, text: str, part: str) -> int:
    if part != "heldout" or study.problems.size is None:
        return study.activations.prompts_per_hop
    weights, splits = study.problems.splits, {"val", "test"} & ({"val", "test"} if text == "fixed" else set(study.traces.splits))
    return round(study.problems.size * sum(weights[name] for name in splits) / sum(weights.values()))


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
