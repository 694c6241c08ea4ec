"""One step-level SAE of a study, trained or taken as it is: `make_step_sae(…)` chooses what it starts from."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from workflow.config.ssae import SsaeConfig
from workflow.config.ssae_data import GivenSsae
from workflow.formats.files import file_digest
from workflow.formats.manifest import read_manifest
from workflow.formats.steps import ARTEFACT, FILE
from workflow.model_sources import locate
from workflow.ssae.adopting import adopt_step_sae
from workflow.ssae.training import train_step_sae
from workflow.step_sources import locate_step_sae

BASE = "base"


class Place(NamedTuple):
    """Where an SSAE stands in the study, as its manifest says."""

    run: str
    chain: str
    seed: int
    stage: str


def make_step_sae(
    *, place: Place, steps: Path | str | None, valid: Path | str | None, policy: Path | str, warm: Path | str | None,
    folder: Path | str, settings: SsaeConfig, device: str, key: str,
) -> dict[str, Any]:  # fmt: skip
    """Write the files of one SSAE; facts for the provenance.

    The SSAE of `base` starts from language models or from what `ssae.given` names, which `source: given` uses as it is; those of
    later stages are trained from `warm`, or from language models in the chain `cold`.

    Args:
        place: which one it is.
        steps: manifest.json of the steps that it is trained on, steps.h5 beside it; None where it is taken as it is.
        valid: the same of held-out steps; None: a part of `steps`.
        policy: folder of the stage's policy, the base model where `ssae.base_model` names none.
        warm: manifest.json of the SSAE that its chain goes on from; None: there is none.
        folder: where its files are written.
        settings: section `ssae`.
        device: `auto`, `cpu` or `cuda`.
        key: digest of everything that the result depends on.

    Raises:
        ConfigError: settings, steps, base model and what it starts from do not fit each other, or the training diverged.
    """
    base = locate(settings.base_model, settings.revision).folder if settings.base_model else Path(policy)
    given, told = None if warm is None else Path(warm), {}
    if place.stage != BASE:
        settings = settings.model_copy(update={"given": GivenSsae()})  # it is that of base
    elif settings.source != "fresh":
        found = locate_step_sae(str(settings.given.model), file=settings.given.file, revision=settings.given.revision)
        given, told = found.path, {"given": str(found.path), "given_revision": found.revision}
        if settings.source == "given":
            adopt_step_sae(given=given, base=base, folder=Path(folder), legacy=settings.legacy, place=place._asdict())
            return told
        key = hashlib.sha256(f"{key} {file_digest(given)}".encode()).hexdigest()[: len(key)]
    assert steps is not None, "the rule names the steps of every SSAE that is trained"
    return told | train_step_sae(
        steps=Path(steps).with_name(FILE), valid=None if valid is None else Path(valid).with_name(FILE), base=base, given=given,
        folder=folder, settings=settings, seed=place.seed, device=device, key=key,
        steps_digest=read_manifest(steps, ARTEFACT)["digest"], place=place._asdict(),
    )  # fmt: skip
