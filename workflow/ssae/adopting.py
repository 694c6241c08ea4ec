"""An existing step-level SAE, taken into a study as it is: the same files as of one that was trained here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workflow.config.ssae_training import SsaeLegacy
from workflow.formats.files import publish, scratch_folder, write_text
from workflow.formats.manifest import read_manifest
from workflow.formats.step_saes import ARTEFACT, BASE, FILE, write_step_manifest, write_step_tensors
from workflow.ssae.records import history_csv
from workflow.ssae.starting import given_step_sae
from workflow.step_saes import filled_step_sae, save_base
from workflow.step_tokens import check_rows, step_tokenizer

OF_TRAINING = (
    "phase", "steps", "train_steps", "held_out_steps", "updates", "kept_update", "target_l1", "nll", "l1", "l0", "active_share",
)  # fmt: skip
"""What the manifest of an SSAE that saedrift trained says of it, and no published file does."""


def adopt_step_sae(*, given: Path, base: Path, folder: Path, legacy: SsaeLegacy, place: Mapping[str, Any]) -> None:
    """Write the files of a given SSAE, without its hints encoder.

    Args:
        given: file in the released layout, or manifest.json of an SSAE that saedrift trained.
        base: folder of the base model; an SSAE of saedrift has its own.
        folder: where they are put.
        legacy: flags, for the tokenizer and the manifest; an SSAE of saedrift has its own.
        place: run, chain, seed and stage for the manifest.

    Raises:
        ConfigError: the file is no SSAE, or the base model is not the one that it was trained around.
    """
    found, digest = given_step_sae(given)
    known: dict[str, Any] = {"legacy": sorted(name for name, is_on in legacy if is_on)}
    if given.suffix == ".json":
        base, known = given.with_name(BASE), read_manifest(given, ARTEFACT)
    tokenizer = step_tokenizer(base, double_bos="double_bos" in known["legacy"])
    check_rows(tokenizer, found.sizes.vocab, f"in {given}", exactly=True)
    model = filled_step_sae(found, base)
    scratch = scratch_folder(folder, digest[:16])
    write_step_tensors(scratch / FILE, model.state_dict())
    save_base(model, tokenizer, scratch / BASE)
    write_text(scratch / "history.csv", history_csv([]))
    sizes = {"d_model": model.d_model, "factor": model.factor, "d_code": model.d_code, "vocab": found.sizes.vocab}
    told = {name: known.get(name) for name in OF_TRAINING}
    write_step_manifest(scratch, **place, **sizes, **told, blocks=found.sizes.blocks, parent=digest, legacy=known["legacy"])
    publish(scratch, folder)
