"""Which step-level SAEs a study has, what each starts from, and which steps it reads."""

from pathlib import Path
from typing import NamedTuple

from workflow.config.study import SHARED, Study

REAL = "real"


class StepsAt(NamedTuple):
    """Steps of one text set."""

    run: str
    """Of the policy that wrote them; `shared` for base and for the text `fixed`."""
    text: str
    stage: str
    """`base` for a text that all stages share."""


class SsaeAt(NamedTuple):
    """One step-level SAE."""

    run: str
    """`shared` for that of base."""
    chain: str
    seed: int
    stage: str


def every_ssae(study: Study) -> list[SsaeAt]:
    """All of them, that of base once for all runs and chains."""
    own, found = study.ssae, []
    for seed in own.seeds:
        found += [SsaeAt(SHARED, REAL, seed, "base")] * ("base" in own.stages)
        found += [SsaeAt(run, chain, seed, stage) for run in _runs(study) for chain in own.chains for stage in _later(study, run)]
    return found


def ssae_parent(study: Study, at: SsaeAt) -> SsaeAt | None:
    """The SSAE from which one goes on; None where it starts from language models, or from what `ssae.given` names."""
    if at.stage == "base" or at.chain == "cold":
        return None
    if at.chain == "repeat":
        return at._replace(chain=REAL)
    earlier = [
        stage for stage in ["base", *_later(study, at.run)] if study.stage(at.run, stage).hop < study.stage(at.run, at.stage).hop
    ]
    return SsaeAt(SHARED, REAL, at.seed, "base") if earlier[-1] == "base" else at._replace(stage=earlier[-1])


def given_file(study: Study, at: SsaeAt) -> str | None:
    """The file on this machine that one starts from or is; None where there is none, or where it is on the hub."""
    own, given = study.ssae, study.ssae.given
    if at.stage != "base" or own.source == "fresh" or given.model is None:
        return None
    path = Path(given.model).expanduser()
    found = [path / name for name in (given.file, "manifest.json") if name] if path.is_dir() else [path]
    return next((str(one) for one in found if one.is_file()), None)


def is_trained(study: Study, at: SsaeAt) -> bool:
    """Whether one is trained here, on steps; else it is taken as it is."""
    return study.ssae.source != "given" or at.stage != "base"


def steps_of(study: Study, at: SsaeAt) -> StepsAt:
    """The steps of this study that one is trained on."""
    text = study.ssae.data.text
    if text != "onpolicy":
        return steps_at(study, at.run, text, "base")
    return steps_at(study, at.run, text, study.source(at.chain, at.stage))


def steps_at(study: Study, run: str, text: str, stage: str) -> StepsAt:
    """Where the steps of a text set lie that a stage of a run reads."""
    if text == "onpolicy":
        return StepsAt(study.home(run, text, stage), text, stage)
    return StepsAt(SHARED if text == "fixed" else run, text, "base")


def measured_steps(study: Study, run: str) -> list[StepsAt]:
    """The steps on which an SSAE of a run is measured: of the shared one, those of every run. None of other sources than traces."""
    if study.ssae.data.format != "traces":
        return []
    runs = study.runs if run == SHARED else [run]
    texts = [text for text in study.design.texts if text != "replayed"]
    return sorted({steps_at(study, one, text, stage.name) for one in runs for text in texts for stage in study.stages(one)})


def compares_step_latents(study: Study) -> bool:
    """Whether an SSAE reads what different stages wrote, so that its latents can be compared between them."""
    return any(
        len({steps.stage for steps in measured_steps(study, at.run) if steps.text == "onpolicy"}) > 1 for at in every_ssae(study)
    )


def _runs(study: Study) -> list[str]:
    return study.runs if study.ssae.runs is None else study.ssae.runs


def _later(study: Study, run: str) -> list[str]:
    """Stages behind base that get an SSAE, in their order."""
    return [stage.name for stage in study.stages(run)[1:] if stage.name in study.ssae.stages]
