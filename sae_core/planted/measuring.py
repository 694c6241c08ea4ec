"""What the SAEs of a planted world make of its held-out rows: sums per prompt, from which every measure of drift follows."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from sae_core.metrics.reconstruction import ReconstructionSums, reconstruction_sums
from sae_core.models.sae import SAE
from sae_core.planted.chains import REAL, Name, PlantedSAE, kept_rows
from sae_core.planted.world import PlantedWorld, Rows

HELD_OUT = "heldout"


class Pair(NamedTuple):
    """An SAE of a world and the stage whose rows it is applied to."""

    chain: str
    sae_stage: int
    store_stage: int


class Measured(NamedTuple):
    """The sums of a world."""

    dropped: dict[Pair, ReconstructionSums]
    """Sinks left out; where stages are paired, a row that is one at any of them is left out at all."""
    included: dict[Pair, ReconstructionSums]
    """All rows."""


def needed_pairs(names: Iterable[Name], stages: int) -> list[Pair]:
    """Every SAE of `real` at every stage; those of control chains at base and at their own stage."""
    found = []
    for chain, stage in names:
        stores = range(stages) if chain == REAL else (0, stage)
        found += [Pair(chain, stage, store) for store in stores]
    return found


def measure(
    world: PlantedWorld,
    saes: Mapping[Name, PlantedSAE],
    part: str = HELD_OUT,
    prompts: int | None = None,
    by_row: bool = False,
) -> Measured:
    """Apply every SAE where it is needed.

    Args:
        part: prompts to measure on; no SAE may have been trained on them.
        prompts: how many, as in `PlantedWorld.rows`.
        by_row: take every row for a prompt of its own: wrong wherever rows of a prompt have something in common, and here to
            show by how much.
    """
    stores = [world.rows(part, stage, prompts) for stage in range(world.stages)]
    masks = common_mask(stores, world.config.paired)
    centre = stores[0].x[masks[0]].double().mean(0).float()
    count = prompts or world.config.prompts
    dropped, included = {}, {}
    for pair in needed_pairs(saes, world.stages):
        rows, mask = stores[pair.store_stage], masks[pair.store_stage]
        index = torch.arange(len(rows.x)) if by_row else rows.prompt
        model, units = saes[Name(pair.chain, pair.sae_stage)].model, len(rows.x) if by_row else count
        dropped[pair] = sums_of(model, rows.x[mask], index[mask], units, centre)
        included[pair] = dropped[pair] if mask.all() else sums_of(model, rows.x, index, units, centre)
    return Measured(dropped, included)


def common_mask(stores: list[Rows], paired: bool) -> list[Bool[Tensor, " row"]]:
    """Rows that count at each stage, sinks being dropped."""
    masks = [kept_rows(rows.x) for rows in stores]
    return [torch.stack(masks).all(0)] * len(masks) if paired else masks


@torch.no_grad()
def sums_of(model: SAE, x: Tensor, prompt: Tensor, prompts: int, centre: Tensor) -> ReconstructionSums:
    """The sums of one SAE on some rows."""
    codes = model.encode(x)
    return reconstruction_sums(x, model.decode(codes, x), prompt, prompts, centre, codes.active_per_row())
