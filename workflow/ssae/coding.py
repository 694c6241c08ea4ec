"""Codes of a study's reasoning steps by one step-level SAE, for probes and whoever else reads them: `code_steps(…)`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workflow.config.section import ConfigError
from workflow.devices import choose_device
from workflow.formats.files import file_digest
from workflow.formats.manifest import read_manifest, write_manifest
from workflow.formats.step_codes import ARTEFACT, write_step_codes
from workflow.formats.steps import ARTEFACT as STEPS
from workflow.formats.steps import FILE, StepStore
from workflow.progress import Progress
from workflow.step_encoding import EncodingSettings, encoded_blocks
from workflow.step_saes import stored_step_sae

FP32 = EncodingSettings(precision="fp32")


def code_steps(
    *, ssae: Path | str, steps: Path | str, codes: Path | str, manifest: Path | str, device: str, place: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Write the codes of all steps of a store, in float32; facts for the provenance.

    Args:
        ssae: manifest.json of an SSAE, its files beside it.
        steps: manifest.json of steps, steps.h5 beside it.
        codes: the parquet file to write, see `formats/step_codes.py`.
        manifest: the manifest beside it.
        device: `auto`, `cpu` or `cuda`.
        place: run, chain, seed, stage, of_run, text and of_stage for the manifest.

    Raises:
        ConfigError: the steps were made of other tokens than the SSAE's.
    """
    where = choose_device(device)
    model, facts = stored_step_sae(ssae)
    read = read_manifest(steps, STEPS)
    with StepStore(Path(steps).with_name(FILE)) as store, Progress(len(store), "encode", "steps") as progress:
        if store.vocab != facts["vocab"]:
            raise ConfigError(
                f"Steps must be made of the {facts['vocab']} tokens of the SSAE {ssae}; those of {steps} are of {store.vocab}. "
                "Make them with the tokenizer of its base model (ssae.base_model)."
            )
        blocks = encoded_blocks(model=model.to(where), steps=store, settings=FP32, progress=progress.advance)
        write_step_codes(codes, store, blocks, d_code=model.d_code)
        rows = len(store)
    told = {"ssae": facts["digest"], "steps": read["digest"], "d_code": model.d_code, "rows": rows}
    write_manifest(manifest, ARTEFACT, **place, **told, digest=file_digest(codes))
    return {"device": str(where), "precision": FP32.precision}
