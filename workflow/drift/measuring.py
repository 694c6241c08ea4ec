"""The measurement of one (run, text, kind, seed, layer): every store read once, all its SAEs applied, sums and latents written."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file

from workflow.config.drift import DriftConfig
from workflow.devices import choose_device
from workflow.drift.inputs import Cell, check_width, load_saes, stores_by_stage
from workflow.drift.latents import counted_pairs, latent_table
from workflow.drift.masks import RowPlan, open_store, plan_rows
from workflow.drift.streaming import Tally, centre_of, measure_store
from workflow.drift.writing import write_parquet
from workflow.formats.activations import RowFilter, damage_set_aside
from workflow.formats.drift import ARTEFACT, BASE, Pair, named_tensors, needed_pairs, write_tensors
from workflow.formats.files import file_digest, remove_scratch, scratch_folder
from workflow.formats.manifest import read_manifest, write_manifest
from workflow.formats.saes import StoredSae
from workflow.formats.shards import ARTEFACT as SHARD
from workflow.progress import Progress

log = logging.getLogger(__name__)
Saes = Mapping[tuple[str, str], StoredSae]


class Scope(NamedTuple):
    """What is measured, and how."""

    cell: Cell
    stages: list[tuple[str, int]]
    """(name, PPO updates), base first."""
    chains: list[str]
    keep: RowFilter
    drift: DriftConfig

    @property
    def names(self) -> list[str]:
        """Names of the stages, base first."""
        return [name for name, _ in self.stages]


def measure_drift(
    *,
    stores: Sequence[Path | str],
    saes: Sequence[Path | str],
    sums: Path | str,
    latents: Path | str,
    manifest: Path | str,
    scope: Scope,
    device: str,
    key: str,
    note: Callable[..., None] = lambda **facts: None,
) -> None:
    """Measure and write `sums`, `latents` and `manifest`; the shelf `formats/drift.py` says what they hold.

    Args:
        stores: manifests of the held-out shards of every stage.
        saes: manifests of the SAEs of every chain and stage, base once.
        sums: sums.safetensors, in whose folder finished stores are kept under `key` if the job is killed.
        latents: latents.parquet.
        manifest: manifest.json.
        scope: what is measured.
        device: `auto`, `cpu` or `cuda`.
        key: digest of settings, code and inputs.
        note: told of the device.

    Raises:
        ConfigError: stores and SAEs do not belong together, rows are unpaired, there are too few prompts or too many
            sinks, or a shard is damaged; that shard is then set aside, so that the next run builds it anew.
    """
    place = choose_device(device)
    note(device=str(place))
    shards = stores_by_stage(stores, scope.cell, scope.names)
    loaded = load_saes(saes, scope.cell, scope.names, scope.chains)
    scratch = scratch_folder(sums, key)
    with damage_set_aside():
        plan = plan_rows(shards, scope.keep, scope.cell.paired, scope.drift.max_sink_share)
        tensors = _all_stores(scope, shards, loaded, plan, scratch, place)
    counted = counted_pairs(scope.names, scope.chains)
    tallies = {pair: Tally(*(tensors.pop(name) for name in tally_names(pair))) for pair in counted}
    write_tensors(sums, tensors)
    kept = {stage: int(rows.keep.sum()) for stage, rows in plan.stages.items()}
    write_parquet(
        latents, latent_table(cell=scope.cell, stages=scope.stages, saes=loaded, tallies=tallies, rows=kept, drift=scope.drift)
    )
    digests = {"digest": file_digest(sums), "latents_digest": file_digest(latents)}
    write_manifest(manifest, ARTEFACT, **_facts(scope, loaded, plan, shards), **digests)
    remove_scratch(scratch)


def _all_stores(
    scope: Scope, shards: Mapping[str, list[Path]], saes: Saes, plan: RowPlan, scratch: Path, device: torch.device
) -> dict[str, torch.Tensor]:
    """The tensors of every store, those finished before a kill read back."""
    base = open_store(shards[BASE])
    check_width(saes, base.hook_point, base.d_model)
    centre = centre_of(base, plan.stages[BASE])
    models = {name: sae.model.to(device) for name, sae in saes.items()}
    tensors = {"centre": centre}
    total = sum(len(rows.keep) for rows in plan.stages.values())
    with Progress(total, "drift", "rows") as progress:
        for stage in scope.names:
            piece = scratch / f"{stage}.safetensors"
            if piece.exists():
                log.info("store %s was measured before", stage)
                progress.advance(len(plan.stages[stage].keep))
            else:
                pairs = [pair for pair in needed_pairs(scope.names, scope.chains) if pair.store_stage == stage]
                counted = [pair for pair in counted_pairs(scope.names, scope.chains) if pair.store_stage == stage]
                result = measure_store(
                    store=open_store(shards[stage]), rows=plan.stages[stage], n_prompts=len(plan.problems), centre=centre,
                    saes={pair: models[pair.chain, pair.sae_stage] for pair in pairs}, counted=counted,
                    batch_rows=scope.drift.batch_rows, device=device, advance=progress.advance,
                )  # fmt: skip
                write_tensors(piece, named_tensors(result.sums) | _named_tallies(result.tallies))
            tensors |= load_file(piece)
    return tensors


def tally_names(pair: Pair) -> list[str]:
    """Names under which a tally travels in the pieces of an unfinished measurement."""
    return [f"tally/{pair.name}/{field}" for field in Tally._fields]


def _named_tallies(tallies: Mapping[Pair, Tally]) -> dict[str, torch.Tensor]:
    return {name: tensor for pair, tally in tallies.items() for name, tensor in zip(tally_names(pair), tally, strict=True)}


def _facts(scope: Scope, saes: Saes, plan: RowPlan, shards: Mapping[str, list[Path]]) -> dict[str, Any]:
    """What the manifest says beside the digests of the files."""
    base = next(iter(saes.values())).facts
    return scope.cell._asdict() | {
        "hook_point": base["hook_point"],
        "d_model": base["d_model"],
        "d_sae": base["d_sae"],
        "k": base["k"],
        "stages": [list(stage) for stage in scope.stages],
        "chains": list(scope.chains),
        "pairs": sorted(pair.name for pair in needed_pairs(scope.names, scope.chains)),
        "problems": plan.problems,
        "rows": {stage: {"included": len(rows.keep), "dropped": int(rows.keep.sum())} for stage, rows in plan.stages.items()},
        "row_filter": scope.keep._asdict(),
        "paired": scope.cell.paired,
        "min_firings": scope.drift.min_firings,
        "min_prompts": scope.drift.min_prompts,
        "saes": {"/".join(name): sae.facts["digest"] for name, sae in saes.items()},
        "stores": {stage: [read_manifest(path, SHARD)["digest"] for path in paths] for stage, paths in shards.items()},
    }
