"""What the measurement of a step-level SAE leaves: sums over the held-out steps of each problem.

`sums.parquet`, columns `STEP_SUMS`, ordered by run, text, stage and problem. Beside it `manifest.json` (artefact `step_sums`): run,
chain, seed, stage (of the SSAE), ssae (digest), d_code, `digest`, and `steps`, a list of run, text, stage and digest of what was
measured.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from workflow.formats.files import file_digest
from workflow.formats.manifest import write_manifest
from workflow.formats.parquet import write_records

ARTEFACT = "step_sums"
STEP_SUMS = pa.schema(
    [
        ("run", pa.string()),
        ("text", pa.string()),
        ("stage", pa.string()),
        ("problem", pa.string()),
        ("steps", pa.int64()),
        ("tokens", pa.int64()),
        ("nll", pa.float64()),
        ("l1", pa.float64()),
        ("active", pa.float64()),
    ]
)
"""`stage` of `run` (`shared` for base) wrote the steps; `tokens` are those of steps and ends, `nll` is in nats over them, `l1` and
`active` (latents above 0) are sums over steps."""


def write_step_sums(path: Path | str, manifest: Path | str, records: Iterable[Mapping[str, Any]], **facts: Any) -> None:
    """Write the sums and the manifest beside them."""
    write_records(path, records, STEP_SUMS)
    write_manifest(manifest, ARTEFACT, **facts, digest=file_digest(path))
