"""What the measurement of a step-level SAE leaves: sums over the held-out steps of each problem.

`sums.parquet`, columns `STEP_SUMS`, ordered by run, text, stage and problem. `firings.safetensors`: for every (run, text, stage)
how often each latent was active on each problem's steps and how strongly, `{run}/{text}/{stage}/{rows,offsets,latents,firings,
activation}` as `sae_core.metrics.firing.FiringSums` describes them; rows are steps, prompts the `problems` of the manifest.

Beside them `manifest.json` (artefact `step_sums`): run, chain, seed, stage (of the SSAE), ssae (digest), d_code, `problems` (names
of all problems with held-out steps, rising), `digest` (of sums.parquet), `firings_digest`, and `steps`, a list of run, text, stage
and digest of what was measured.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from safetensors.torch import load_file, save_file

from sae_core.metrics.firing import FiringSums, unpacked
from workflow.config.section import ConfigError
from workflow.formats.files import file_digest, replacing
from workflow.formats.manifest import write_manifest
from workflow.formats.parquet import write_records

ARTEFACT = "step_sums"
OF_FIRINGS = ("rows", "offsets", "latents", "firings", "activation")
STEP_SUMS = pa.schema(
    [
        ("run", pa.string()),
        ("text", pa.string()),
        ("stage", pa.string()),
        ("problem", pa.string()),
        ("steps", pa.int64()),
        ("tokens", pa.int64()),
        ("nll", pa.float64()),
        ("nll_mean_code", pa.float64()),
        ("l1", pa.float64()),
        ("active", pa.float64()),
    ]
)
"""`stage` of `run` (`shared` for base) wrote the steps; `tokens` are those of steps and ends, `nll` is in nats over them, as is
`nll_mean_code` with every step's code replaced by one, the mean code of the held-out steps of (run, text, stage) brought to length
1; `l1` and `active` (latents above 0) are sums over steps."""


class Written(NamedTuple):
    """Whose steps they are."""

    run: str
    """Run of the policy that wrote them; `shared` for base and for a text that all stages share."""
    text: str
    """Text set."""
    stage: str
    """Stage whose policy wrote them; `base` for a text that all stages share."""


def write_step_sums(
    sums: Path | str, firings: Path | str, manifest: Path | str, records: Iterable[Mapping[str, Any]],
    found: Mapping[Written, FiringSums], **facts: Any,
) -> None:  # fmt: skip
    """Write both files and the manifest beside them."""
    write_records(sums, records, STEP_SUMS)
    named = {"/".join((*one, name)): tensor for one, part in found.items() for name, tensor in part.packed().items()}
    with replacing(firings) as temporary:
        save_file({name: named[name].contiguous() for name in sorted(named)}, temporary)
    write_manifest(manifest, ARTEFACT, **facts, digest=file_digest(sums), firings_digest=file_digest(firings))


def read_step_firings(path: Path | str, facts: Mapping[str, Any]) -> dict[Written, FiringSums]:
    """Firings by what they were measured on.

    Args:
        facts: fields of the manifest beside the file.

    Raises:
        ConfigError: the file is not the one that the manifest describes.
    """
    if (found := file_digest(path)) != facts["firings_digest"]:
        raise ConfigError(
            f"{path} must have the digest {facts['firings_digest'][:12]}… that its manifest names; got {found[:12]}…. Delete both "
            "and run again, they will be rebuilt."
        )
    tensors = load_file(path)
    places = sorted({Written(*name.split("/")[:3]) for name in tensors})
    return {
        place: unpacked({name: tensors["/".join((*place, name))] for name in OF_FIRINGS}, int(facts["d_code"])) for place in places
    }
