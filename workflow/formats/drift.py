"""The measurement of one (run, text, kind, seed, layer): sums per prompt of every SAE on every store it is needed on.

`sums.safetensors` holds, in float64, with axis `prompt` = the problems of the split `test`, in the order of the manifest:

- `centre` [d_model]: c, near the mean of the rows of `base`; it prevents cancellation.
- `store/{stage}/{sinks}/{n,x2c,x2,xsum}` [prompt] and `store/{stage}/{sinks}/xc` [prompt, d_model]: what a store's rows sum to.
- `pair/{chain}/{sae_stage}/{store_stage}/{sinks}/{sse,rowwise,l0}` [prompt]: what the SAE of a chain and stage makes of a store.

`{sinks}` is `dropped` (rows that the row filter keeps) or `included` (all rows). The fields are those of
`sae_core.metrics.reconstruction.ReconstructionSums`. The SAE of `base` is written under the chain `real`.

`manifest.json` (artefact `drift_sums`) MUST say: run, text, kind, seed, layer, hook_point, d_model, d_sae, k, `stages` (lists of
name and update, base first), `chains`, `pairs` (their names, sorted), `problems`, `rows` by stage and sinks, `row_filter`, `paired`
(one row mask for all stages), `min_firings`, `min_prompts`, `fdr`, `saes` (digest by `{chain}/{stage}`), `stores` (digests of
shards by stage), `digest` (of sums.safetensors), `latents_digest`, `dictionary_digest` and `lineage_digest`: of latents.parquet,
dictionary.parquet and lineage.parquet, whose columns are those of `latent_columns.Latent`, `Dictionary` and `Event`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file

from sae_core.metrics.reconstruction import ReconstructionSums
from workflow.formats.files import replacing
from workflow.formats.manifest import read_manifest

ARTEFACT = "drift_sums"
BASE, REAL, NULL, COLD, REPEAT = "base", "real", "null", "cold", "repeat"
SINKS = ("dropped", "included")
OF_STORE = ("n", "x2c", "xc", "x2", "xsum")
OF_PAIR = ("sse", "rowwise", "l0")
PAIRED_TEXTS = ("fixed", "replayed")
"""Text sets that run the same tokens through every policy."""


class Pair(NamedTuple):
    """An SAE and the store it is applied to."""

    chain: str
    """Chain of the SAE; `real` for the SAE of base."""
    sae_stage: str
    """Stage of the SAE."""
    store_stage: str
    """Stage of the policy whose rows are encoded."""

    @property
    def name(self) -> str:
        """The pair in keys and manifests."""
        return "/".join(self)


def own_pair(chain: str, stage: str) -> Pair:
    """An SAE on the kind of rows that its chain trains on: those of its stage, in `null` those of base."""
    return Pair(REAL if stage == BASE else chain, stage, BASE if chain == NULL else stage)


def needed_pairs(stages: list[str], chains: list[str]) -> list[Pair]:
    """All pairs of a measurement: every SAE of `real` on every store, those of control chains on base and on their own stage."""
    transfer = [Pair(REAL, sae, store) for sae in stages for store in stages]
    controls = [chain for chain in chains if chain != REAL]
    return transfer + [Pair(chain, stage, store) for chain in controls for stage in stages[1:] for store in (BASE, stage)]


class DriftSums(NamedTuple):
    """One measurement, as read back."""

    manifest: dict[str, Any]
    """Fields of manifest.json."""
    tensors: dict[str, torch.Tensor]
    """Content of sums.safetensors."""

    @property
    def stages(self) -> list[str]:
        """Names of the stages, base first."""
        return [name for name, _ in self.manifest["stages"]]

    @property
    def pairs(self) -> list[Pair]:
        """The measured pairs, by stages of the run, `real` first."""
        return needed_pairs(self.stages, self.manifest["chains"])

    def of(self, pair: Pair, sinks: str) -> ReconstructionSums:
        """The sums of one pair, per prompt."""
        store = {field: self.tensors[f"store/{pair.store_stage}/{sinks}/{field}"] for field in OF_STORE}
        return ReconstructionSums(**store, **{field: self.tensors[f"pair/{pair.name}/{sinks}/{field}"] for field in OF_PAIR})


def named_tensors(sums: Mapping[tuple[Pair, str], ReconstructionSums]) -> dict[str, torch.Tensor]:
    """The tensors of sums.safetensors for sums by (pair, sinks); those of a store are the same for all its pairs and kept once."""
    tensors: dict[str, torch.Tensor] = {}
    for (pair, sinks), one in sums.items():
        tensors |= {f"store/{pair.store_stage}/{sinks}/{field}": getattr(one, field).cpu() for field in OF_STORE}
        tensors |= {f"pair/{pair.name}/{sinks}/{field}": getattr(one, field).cpu() for field in OF_PAIR}
    return tensors


def write_tensors(path: Path | str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a safetensors file in one step, in the order of the keys."""
    with replacing(path) as temporary:
        save_file({name: tensors[name].contiguous() for name in sorted(tensors)}, temporary)


def read_drift_sums(sums: Path | str, manifest: Path | str) -> DriftSums:
    """One measurement.

    Raises:
        ValueError: the manifest is not that of a measurement of drift, or lacks one of its pairs.
    """
    measured = DriftSums(read_manifest(manifest, ARTEFACT), load_file(sums))
    if lost := [pair.name for pair in measured.pairs if f"pair/{pair.name}/{SINKS[0]}/sse" not in measured.tensors]:
        raise ValueError(
            f"{sums} must hold every pair that {manifest} names; it lacks {', '.join(lost)}. Delete both and run again, "
            "they will be rebuilt."
        )
    return measured
