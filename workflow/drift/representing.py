"""The measurement of one (run, text, layer) before any SAE: every pair of stages, its sums over paired rows, its measures."""

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from sae_core.metrics.change import ChangeSums, inside_share, mean_shift_share, mean_squared_change
from sae_core.metrics.representation import cka, participation_ratio, principal_angles, procrustes, variance_inside
from workflow.config.joint import RepresentationConfig
from workflow.config.section import ConfigError
from workflow.devices import choose_device
from workflow.drift.base_spans import Span, base_spans
from workflow.drift.inputs import Cell, check_width, stores_by_stage
from workflow.drift.pairs_of_stages import PairSums, TwoStages, centre_of
from workflow.formats.activations import RowFilter, damage_set_aside
from workflow.formats.drift import BASE, write_tensors
from workflow.formats.files import file_digest, remove_scratch, scratch_folder
from workflow.formats.manifest import read_manifest, write_manifest
from workflow.formats.masks import RowPlan, open_store, plan_rows
from workflow.formats.representation import ARTEFACT, stage_pairs
from workflow.formats.saes import StoredSae, read_sae
from workflow.formats.shards import ARTEFACT as SHARD
from workflow.jackknife import Groups, groups_of
from workflow.progress import Progress

log = logging.getLogger(__name__)
BATCH_ROWS = 4096


class Scope(NamedTuple):
    """What is measured, and how."""

    run: str
    text: str
    layer: int
    stages: list[tuple[str, int]]
    """(name, PPO updates), base first."""
    keep: RowFilter
    settings: RepresentationConfig

    @property
    def names(self) -> list[str]:
        """Names of the stages, base first."""
        return [name for name, _ in self.stages]

    @property
    def cell(self) -> Cell:
        """The wildcards, of no SAE in particular."""
        return Cell(self.run, self.text, "", 0, self.layer)


def measure_representation(
    *, stores: Sequence[Path | str], saes: Sequence[Path | str], sums: Path | str, manifest: Path | str, scope: Scope, device: str,
    key: str, note: Callable[..., None] = lambda **facts: None,
) -> None:  # fmt: skip
    """Measure and write `sums` and `manifest`; the shelf `formats/representation.py` says what they hold.

    Args:
        stores: manifests of the held-out shards of every stage.
        saes: manifests of the base SAEs whose dictionaries the change is held against; may be none.
        sums: sums.safetensors, in whose folder finished pairs are kept under `key` if the job is killed.
        manifest: manifest.json.
        scope: what is measured.
        device: `auto`, `cpu` or `cuda`.
        key: digest of settings, code and inputs.
        note: told of the device.

    Raises:
        ConfigError: the text is not paired, stores and SAEs do not belong together, rows are unpaired or do not vary, there are too
            few prompts, or a shard is damaged; that shard is then set aside, so that the next run builds it anew.
    """
    if not scope.cell.paired:
        raise ConfigError(
            f"Representations must be compared on rows that all stages share; the text {scope.text} is each stage's own. "
            "Measure fixed or replayed."
        )
    place = choose_device(device)
    note(device=str(place))
    shards = stores_by_stage(stores, scope.cell, scope.names)
    loaded = {(sae.facts["kind"], sae.facts["seed"]): sae for sae in map(read_sae, saes)}
    scratch = scratch_folder(sums, key)
    with damage_set_aside():
        plan = plan_rows(shards, scope.keep, paired=True)
        base = open_store(shards[BASE])
        check_width({(kind, str(seed)): sae for (kind, seed), sae in loaded.items()}, base.hook_point, base.d_model)
        models = {name: sae.model for name, sae in loaded.items()}
        directions = scope.settings.span_directions
        spans = base_spans(models, base, plan.stages[BASE], directions, BATCH_ROWS, place)
        groups = _groups(plan, scope)
        tensors = _all_pairs(scope, shards, plan, groups, spans, scratch, place)
    write_tensors(sums, tensors)
    write_manifest(manifest, ARTEFACT, **_facts(scope, shards, plan, groups, spans, loaded), digest=file_digest(sums))
    remove_scratch(scratch)


def _groups(plan: RowPlan, scope: Scope) -> Groups:
    rows = plan.stages[BASE]
    return groups_of(rows.prompt[rows.keep], len(plan.problems), scope.settings.jackknife_groups)


def _all_pairs(
    scope: Scope, shards: Mapping[str, list[Path]], plan: RowPlan, groups: Groups, spans: list[Span], scratch: Path,
    device: torch.device,
) -> dict[str, Tensor]:  # fmt: skip
    """The tensors of every pair, those finished before a kill read back."""
    pairs, tensors = stage_pairs(scope.names), {}
    centre = centre_of(open_store(shards[BASE]), plan.stages[BASE])
    with Progress(len(pairs), "representation", "pairs") as progress:
        for against, stage in pairs:
            piece = scratch / f"{against}-{stage}.safetensors"
            if not piece.exists():
                before, after = open_store(shards[against]), open_store(shards[stage])
                two = TwoStages(before, after, plan.stages[BASE], centre, BATCH_ROWS, device)
                write_tensors(piece, measured_pair(two, groups, spans, scope.settings.variance_shares))
            tensors |= {f"{against}/{stage}/{name}": tensor for name, tensor in load_file(piece).items()}
            progress.advance()
    return tensors


def measured_pair(two: TwoStages, groups: Groups, spans: Sequence[Span], shares: Sequence[float]) -> dict[str, Tensor]:
    """The tensors of one pair, on the CPU.

    Rows are read twice: for the sums of every group, which are held in memory together, and for those of the change.

    Raises:
        ConfigError: rows do not vary.
    """
    bases = [span.basis for span in spans]
    change = two.change(len(groups.of_prompt), bases)
    weights = torch.from_numpy(groups.left_out()).to(change.n.device)
    try:
        parts = list(two.by_group(groups))
        whole = functools.reduce(PairSums.__add__, parts)
        values = [_smooth(whole), *(_smooth(whole - part) for part in parts)]
        angles = principal_angles(whole.before, whole.after, shares)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    subspaces = [[one.rank, float(one.angles.mean()), float(one.angles.max()), one.gap] for one in angles]
    return {
        "values": torch.cat([_with_change(torch.stack(values), change, weights), inside_share(change, weights)], 1).cpu(),
        "subspaces": torch.tensor(subspaces, dtype=torch.float64).reshape(len(shares), 4),
        "inside_variance": torch.stack([torch.zeros(0, dtype=torch.float64)] if not bases else [
            variance_inside(whole.before, basis).cpu() for basis in bases
        ]).reshape(len(bases)),
    }  # fmt: skip


def _smooth(sums: PairSums) -> Tensor:
    """cka, procrustes, participation ratio, its change, and the variance of the earlier stage per row."""
    before, after = participation_ratio(sums.before), participation_ratio(sums.after)
    distance = procrustes(*sums).normalised
    return torch.stack([cka(*sums), distance, after, after - before, sums.before.scatter.trace() / sums.before.n])


def _with_change(values: Tensor, change: ChangeSums, weights: Tensor) -> Tensor:
    """The columns of `SMOOTH`: the size of the change takes the place of the variance it is divided by."""
    size = mean_squared_change(change, weights) / values[:, 4]
    return torch.cat([values[:, :4], size[:, None], mean_shift_share(change, weights)[:, None]], 1)


def _facts(
    scope: Scope, shards: Mapping[str, list[Path]], plan: RowPlan, groups: Groups, spans: Sequence[Span],
    saes: Mapping[tuple[str, int], StoredSae],
) -> dict[str, Any]:  # fmt: skip
    shard = read_manifest(shards[BASE][0], SHARD)
    return {
        "run": scope.run, "text": scope.text, "layer": scope.layer,
        "hook_point": shard["hook_point"], "d_model": shard["d_model"],
        "stages": [list(stage) for stage in scope.stages], "pairs": [list(pair) for pair in stage_pairs(scope.names)],
        "spans": [
            {"kind": span.kind, "seed": span.seed, "directions": span.directions, "rank": span.basis.shape[1]} for span in spans
        ],
        "variance_shares": scope.settings.variance_shares, "groups": groups.count,
        "problems": plan.problems, "rows": int(plan.stages[BASE].keep.sum()), "row_filter": scope.keep._asdict(),
        "saes": {f"{kind}/{seed}": sae.facts["digest"] for (kind, seed), sae in saes.items()},
        "stores": {stage: [read_manifest(path, SHARD)["digest"] for path in paths] for stage, paths in shards.items()},
    }  # fmt: skip
