"""Step-level SAEs on disk: `step_sae.safetensors`, the folder `base/`, and beside them `manifest.json` (artefact `step_sae`).

step_sae.safetensors MUST hold, in float32, the tensors of a `StepSAE` under their released names: `encoder.*`, `decoder.*`,
`autoencoder.*`, `mean_mlp.*`, `var_mlp.*`, `projection_mlp.*`, and `hints_encoder.*` where the prior was trained (phases 2 and 3).
`decoder.lm_head.weight` is absent where the language model ties it to the embedding. Nothing of the optimiser is there.

`base/` MUST hold config.json of the language models as they are in it (blocks, embedding rows) and the tokenizer with `<sep>`.

manifest.json MUST say: `run`, `chain`, `stage` (null outside a study), `seed`, `d_model`, `factor`, `d_code`, `blocks`, `vocab`,
`phase`, `parent` (digest of the SSAE it was started from, or null), `steps` (digest of the training steps.h5), `train_steps`,
`held_out_steps`, `updates` (done), `kept_update` (whose weights these are), `target_l1`, of that update held-out `nll`, `l1`, `l0`
and `active_share` (`workflow/ssae/records.py`), `legacy` (names of the flags of section ssae.legacy that were on), `digest` (of
step_sae.safetensors), `base_digest` (of `base/`). Of an SSAE that was taken as it is, what its file does not tell is null.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from workflow.config.section import ConfigError
from workflow.formats.files import file_digest, folder_digest, replacing
from workflow.formats.manifest import read_manifest, write_manifest
from workflow.formats.published.step_saes import PublishedStepSAE

ARTEFACT, FILE, BASE = "step_sae", "step_sae.safetensors", "base"
HEAD, EMBEDDING = "decoder.lm_head.weight", "decoder.model.embed_tokens.weight"


def write_step_tensors(path: Path | str, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors by released name in one step, those of one storage once."""
    seen: set[int] = set()
    own = {}
    for name, tensor in tensors.items():
        place = tensor.data_ptr()
        # the head is the only one that models tie, and comes behind the embedding
        if name != HEAD or place not in seen:
            own[name] = tensor.detach().float().cpu().contiguous()
        seen.add(place)
    with replacing(path) as temporary:
        save_file(own, temporary)


def write_step_manifest(folder: Path | str, **facts: Any) -> None:
    """Write the manifest of the files in the folder, last of all; `facts` are those of this module's docstring without digests."""
    folder = Path(folder)
    digests = {"digest": file_digest(folder / FILE), "base_digest": folder_digest(folder / BASE)}
    write_manifest(folder / "manifest.json", ARTEFACT, **facts, **digests)


def read_step_tensors(manifest: Path | str) -> tuple[PublishedStepSAE, dict[str, Any]]:
    """Tensors beside a manifest, by released name, and the fields of the manifest.

    Raises:
        ConfigError: step_sae.safetensors is missing, or not the one that the manifest describes.
    """
    facts = read_manifest(manifest, ARTEFACT)
    path = Path(manifest).with_name(FILE)
    found = file_digest(path) if path.is_file() else "nothing"
    if found != facts["digest"]:
        raise ConfigError(
            f"{path} must have the digest {facts['digest'][:12]}… that its manifest names; got {found[:12]}. "
            "Delete the manifest and train again."
        )
    tensors = load_file(path)
    if HEAD not in tensors and EMBEDDING in tensors:
        tensors[HEAD] = tensors[EMBEDDING]
    return PublishedStepSAE(tensors, None, {}), facts
