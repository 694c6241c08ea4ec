"""What interventions on the language model leave: tables of sums over the predicted tokens of each problem.

Predicted tokens are the response tokens of a problem's texts. `ce` is Σ −log q(token) and `kl` Σ KL(p‖q) over the vocabulary, in
nats. Beside each table `sums.parquet` lies `manifest.json` with its `digest`, `problems` (in the order of the rows) and:

- artefact `splice`: run, text, kind, seed, stage, layer and `saes` (digests by name). p is the policy as it is, q the same policy
  with other rows at the layer. Column `put`: `nothing`, `real` (S_t(x)), `frozen` (S_0(x)), `null` (U_t(x)), `mean` or `zero`.
- artefact `outputs`: run, text, stage. π_t against π_0.
- artefact `solving`: as `splice`, and `max_new_tokens`, `median_norm` (of the store: what the row filter is measured against while
  answers are written). No sums: an answer per row, see `SOLVING`.
- artefact `causal`: run, text, kind, seed, layer, stage and `latents`, a list of `group`, `member`, `draw` (of a random one, else
  0), `latent`, `rate` (share of rows on which it is active), `turn` (1 − cosine with its direction in S_0), `excess` (turn beyond
  that of the null chain's latents of like density) and `strong` (95th percentile where it is active). Columns: see `CAUSAL`.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from workflow.formats.files import file_digest
from workflow.formats.manifest import write_manifest
from workflow.formats.parquet import write_records

SUMS = [("problem", pa.string()), ("tokens", pa.int64()), ("ce", pa.float64()), ("kl", pa.float64())]
NOTHING = "nothing"
"""The policy as it is."""
SAES = ("real", "frozen", "null")
ABLATIONS = ("mean", "zero")

SPLICE = pa.schema([("put", pa.string()), *SUMS])
OUTPUTS = pa.schema(
    [
        *SUMS[:2],
        ("ce", pa.float64()),
        ("ce_base", pa.float64()),
        ("kl", pa.float64()),
        ("kl_reverse", pa.float64()),
        ("entropy", pa.float64()),
        ("entropy_base", pa.float64()),
    ]
)
"""ce and entropy of π_t, the same of π_0, KL(π_t‖π_0) and KL(π_0‖π_t)."""

SOLVING = pa.schema(
    [
        ("put", pa.string()),
        ("problem", pa.string()),
        ("strict", pa.bool_()),
        ("flexible", pa.bool_()),
        ("verl_strict", pa.bool_()),
        ("verl_flexible", pa.bool_()),
        ("finished", pa.bool_()),
        ("tokens", pa.int32()),
        ("response", pa.string()),
    ]
)
"""`put` as in splices; verdicts of `workflow/answers.py`; whether the answer ended by itself; its tokens; its text."""

ZERO, MEAN, STEER, TRANSPLANT = "zero", "mean", "steer", "transplant"
DRIFTED, RANDOM, NULL, ALL, ALL_NULL = "drifted", "random", "null", "all", "all_null"
CAUSAL = pa.schema([("action", pa.string()), ("group", pa.string()), ("member", pa.int64()), ("strength", pa.float64()), *SUMS])
"""`action`: `nothing` (group `policy`: π_t; group `base`: π_0, with p = π_t); `zero`, `mean` and `steer`: one latent of π_t
changed, p = π_t; `transplant`: directions put into π_0, p = π_t. `group`: `drifted`, `random`, `null`; of transplants also `all`
and `all_null`. `member`: place of the latent in its group, of a transplant of random latents the draw. `strength`: 0 but for
`steer`."""


def write_sums(
    path: Path | str, manifest: Path | str, artefact: str, records: Iterable[Mapping[str, Any]], schema: pa.Schema, **facts: Any
) -> None:
    """Write one table of sums and the manifest beside it."""
    write_records(path, records, schema)
    write_manifest(manifest, artefact, **facts, digest=file_digest(path))
