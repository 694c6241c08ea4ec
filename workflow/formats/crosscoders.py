"""Crosscoders on disk: `crosscoder.safetensors` and, beside it, `manifest.json` (artefact `crosscoder`).

crosscoder.safetensors MUST hold, in float32 and with the rows of all stages side by side in the order of the manifest, `W_enc` and
`W_dec` [d_sae, stages · d_model], `b_enc` [d_sae], `b_dec` and `b_pre` [stages · d_model], `scale` [stages · d_model] (one number
per stage, repeated), `threshold` []. What they compute stands in `sae_core.models.crosscoder`.

manifest.json MUST say: run, text, seed, layer, hook_point, `d_model` (of one stage), d_sae, k, `stages` (lists of name and update,
base first), `digest` (of crosscoder.safetensors), `problems` (measured on, sorted), `train_rows`, `train_problems`,
`held_out_rows`, `train_share`, `row_filter`, `updates`, and of the last epoch `nmse` and `l0` on the held-out rows of all stages;
`stores` (digests of shards by stage).
"""

from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file

from sae_core.config.crosscoder import CrosscoderConfig
from sae_core.models.crosscoder import Crosscoder
from workflow.formats.manifest import read_manifest

ARTEFACT = "crosscoder"


class StoredCrosscoder(NamedTuple):
    """One crosscoder as read."""

    model: Crosscoder
    facts: dict[str, Any]
    """Fields of its manifest."""


def read_crosscoder(manifest: Path | str) -> StoredCrosscoder:
    """The crosscoder beside a manifest.

    Raises:
        ValueError: the file is no such manifest, or a tensor is missing or of another shape.
    """
    facts = read_manifest(manifest, ARTEFACT)
    stages = len(facts["stages"])
    config = CrosscoderConfig(d_model=stages * facts["d_model"], stages=stages, d_sae=facts["d_sae"], k=facts["k"])
    return StoredCrosscoder(Crosscoder(config, load_file(Path(manifest).with_name("crosscoder.safetensors"))), facts)
