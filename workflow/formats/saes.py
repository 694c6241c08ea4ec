"""SAEs on disk: `sae.safetensors` and, beside it, `manifest.json` (artefact `sae`).

sae.safetensors MUST hold, in float32: `W_enc` [d_sae, d_model], `W_dec` [d_sae, d_model] (rows of norm 1), `b_enc` [d_sae],
`b_dec` [d_model], `b_pre` [d_model], `scale` []; and `firing_rate` [d_sae] (float32, share of the rows of the epoch whose weights
these are), `reinitialised` [d_sae] (bool, since `base`). With x' = x / scale: z = (x' − b_pre) W_encᵀ + b_enc; the k largest of z
are kept (`topk`: ReLU after selection; `topk_signed`: as they are); x̂ = scale · (f W_dec + b_dec). b_pre is not added back.

manifest.json MUST say: run, text, kind, chain, seed, stage, `source_stage` (whose policy made the rows), part, hop, layer,
hook_point, d_model, d_sae, k, `parent` (digest of the SAE it was started from, or null), `digest` (of sae.safetensors),
`row_filter`, `rows` (kept training rows), `held_out_rows`, `dropped_share`, updates, `best_epoch`, and of that epoch nmse, l0
(both held-out) and dead_share.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from safetensors.torch import load_file, save_file
from torch import Tensor

from sae_core.config import SAEConfig
from sae_core.models.topk import TENSORS, TopKSAE
from workflow.config.section import ConfigError
from workflow.formats.files import file_digest, replacing
from workflow.formats.manifest import read_manifest, write_manifest

ARTEFACT = "sae"
FILE = "sae.safetensors"
EXTRAS = ("firing_rate", "reinitialised")
ACTIVATION: dict[str, Literal["relu", "signed"]] = {"topk": "relu", "topk_signed": "signed"}
"""Activation of each kind."""


class StoredSae(NamedTuple):
    """One SAE as read."""

    model: TopKSAE
    facts: dict[str, Any]
    """Fields of its manifest."""
    extras: dict[str, Tensor]
    """`firing_rate` [d_sae] and `reinitialised` [d_sae]."""


def write_sae(path: Path | str, tensors: Mapping[str, Tensor], firing_rate: Tensor, reinitialised: Tensor) -> str:
    """Write sae.safetensors in one step and return its digest; equal tensors give equal bytes."""
    everything = {name: tensors[name] for name in TENSORS} | {"firing_rate": firing_rate, "reinitialised": reinitialised}
    with replacing(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in everything.items()}, temporary)
    return file_digest(path)


def write_sae_manifest(path: Path | str, config: SAEConfig, **fields: Any) -> None:
    """Write the manifest; `fields` are those of this module's docstring but for d_model, d_sae and k."""
    write_manifest(path, ARTEFACT, d_model=config.d_model, d_sae=config.d_sae, k=config.k, **fields)


def read_sae(manifest: Path | str) -> StoredSae:
    """The SAE beside a manifest, on the CPU.

    Raises:
        ConfigError: sae.safetensors is missing, not the one that the manifest describes, or incomplete.
    """
    facts = read_manifest(manifest, ARTEFACT)
    path = Path(manifest).with_name(FILE)
    found = file_digest(path) if path.is_file() else "nothing"
    if found != facts["digest"]:
        raise ConfigError(
            f"{path} must have the digest {facts['digest'][:12]}… that its manifest names; got {found[:12]}. "
            "Delete the manifest and run again, the SAE will be rebuilt."
        )
    tensors = load_file(path)
    if lost := [name for name in (*TENSORS, *EXTRAS) if name not in tensors]:
        raise ConfigError(f"{path} must hold {', '.join((*TENSORS, *EXTRAS))}; {', '.join(lost)} are missing. Rebuild it.")
    config = SAEConfig(facts["d_model"], facts["d_sae"], facts["k"], ACTIVATION[facts["kind"]])
    return StoredSae(TopKSAE(config, tensors), facts, {name: tensors[name] for name in EXTRAS})
