"""The measurement of one (run, text, kind, seed, layer): sums per prompt, and what became of every latent."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sae_core.kernels.choice import BackendName
from workflow.backends import open_backend
from workflow.config.drift import DriftConfig
from workflow.devices import choose_device
from workflow.drift.changes import changes, frozen_totals
from workflow.drift.dictionaries import dictionary_rows, event_rows
from workflow.drift.inputs import Cell, check_width, load_saes, stores_by_stage
from workflow.drift.latents import Compared, Measured, latent_table
from workflow.drift.lives import Saes, fate, lives, relatives
from workflow.drift.passes import Stores, count_stores, relate_stages
from workflow.formats.activations import RowFilter, damage_set_aside
from workflow.formats.drift import ARTEFACT, BASE, REAL, needed_pairs, write_tensors
from workflow.formats.files import file_digest, remove_scratch, scratch_folder
from workflow.formats.latent_columns import Dictionary, Event
from workflow.formats.manifest import read_manifest, write_manifest
from workflow.formats.masks import RowPlan, open_store, plan_rows
from workflow.formats.shards import ARTEFACT as SHARD
from workflow.formats.table_files import arrow_table, write_parquet
from workflow.progress import Progress


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
    tables: Mapping[str, Path | str],
    manifest: Path | str,
    scope: Scope,
    device: str,
    key: str,
    backend: BackendName = "auto",
    note: Callable[..., None] = lambda **facts: None,
) -> None:
    """Measure and write `sums`, `tables` and `manifest`; the shelf `formats/drift.py` says what they hold.

    Args:
        stores: manifests of the held-out shards of every stage.
        saes: manifests of the SAEs of every chain and stage, base once.
        sums: sums.safetensors, in whose folder finished stores are kept under `key` if the job is killed.
        tables: latents.parquet, dictionary.parquet and lineage.parquet by name.
        manifest: manifest.json.
        scope: what is measured.
        device: `auto`, `cpu` or `cuda`.
        key: digest of settings, code and inputs.
        backend: what encodes: `auto`, `torch`, `native` or `triton`.
        note: told of the device and the backend.

    Raises:
        ConfigError: stores and SAEs do not belong together, rows are unpaired, there are too few prompts or too many
            sinks, or a shard is damaged; that shard is then set aside, so that the next run builds it anew.
    """
    place = choose_device(device)
    engine = open_backend(backend, place)
    note(device=str(place), backend=engine.name, backend_detail=engine.detail)
    shards = stores_by_stage(stores, scope.cell, scope.names)
    loaded = load_saes(saes, scope.cell, scope.names, scope.chains)
    scratch = scratch_folder(sums, key)
    with damage_set_aside():
        plan = plan_rows(shards, scope.keep, scope.cell.paired, scope.drift.max_sink_share)
        base = open_store(shards[BASE])
        check_width(loaded, base.hook_point, base.d_model)
        models = {name: sae.model.to(place) for name, sae in loaded.items()}
        given = Stores(scope.names, scope.chains, shards, plan, scope.cell.paired, models, scope.drift, place, engine, scratch)
        measured, tensors = _measured(given, loaded)
    write_tensors(sums, tensors)
    _write_tables(tables, measured, given, scope)
    digests = {"digest": file_digest(sums), **{f"{name}_digest": file_digest(path) for name, path in tables.items()}}
    write_manifest(manifest, ARTEFACT, **_facts(scope, loaded, plan, shards), **digests)
    remove_scratch(scratch)


def _measured(given: Stores, saes: Saes) -> tuple[Measured, dict[str, torch.Tensor]]:
    """What is known of latents after both passes, and the sums."""
    drift, problems, firings = given.drift, given.plan.problems, given.firings
    with Progress(sum(len(rows.keep) for rows in given.plan.stages.values()), "drift: counting", "rows") as progress:
        tensors = count_stores(given, progress.advance)
    alive, base = lives(given.stages, given.chains, saes, firings, drift), saes[REAL, BASE]
    later = [name for name in saes if name[1] != BASE]
    alike = {name: relatives(saes[name], base, alive[name], alive[REAL, BASE], drift) for name in later}
    pairs = {name: one.candidates for name, one in alike.items()}
    with Progress(sum(given.kept(BASE) + given.kept(stage) for stage in given.stages[1:]), "drift: relating", "rows") as progress:
        relations = relate_stages(given, tensors, alive, pairs, progress.advance)
    compared = {}
    for name in later:
        with_base = fate(saes[name], base, alive[name], alive[REAL, BASE], alike[name], relations[name], drift)
        compared[name] = Compared(with_base, changes(firings, problems, *name, drift, given.with_threshold))
    rows = {stage: given.kept(stage) for stage in given.stages}
    return Measured(saes, alive, rows, {name: frozen_totals(firings, *name) for name in saes}, compared), tensors


def _write_tables(files: Mapping[str, Path | str], measured: Measured, given: Stores, scope: Scope) -> None:
    updates = dict(scope.stages)
    latents = latent_table(measured, scope.cell, updates, scope.drift)
    write_parquet(files["latents"], latents)
    rows = dictionary_rows(measured, given.firings, latents, scope.cell, updates, scope.drift)
    write_parquet(files["dictionary"], arrow_table(rows, Dictionary))
    write_parquet(files["lineage"], arrow_table(event_rows(measured, scope.cell, updates), Event))


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
        "fdr": scope.drift.fdr,
        "saes": {"/".join(name): sae.facts["digest"] for name, sae in saes.items()},
        "stores": {stage: [read_manifest(path, SHARD)["digest"] for path in paths] for stage, paths in shards.items()},
    }
