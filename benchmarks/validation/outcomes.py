"""One world, from rows to what is to be known of it: everything that its line in the table of validation is made of."""

from dataclasses import replace
from typing import Any

from benchmarks.validation.coverage import coverage
from benchmarks.validation.designs import Design
from benchmarks.validation.latents import born_and_died, changed_rates, score, turned_by_index
from benchmarks.validation.naive import index_aligned, row_intervals, row_level_firing_discoveries
from benchmarks.validation.tables import decomposition_table, drift_sums
from sae_core.planted.chains import NULL, REAL, REPEAT, ChainTrainer, Name, PlantedSAE
from sae_core.planted.measuring import measure
from sae_core.planted.world import PlantedWorld


def outcome(design: Design, number: int) -> dict[str, Any]:
    """What became of one world of a family: plain numbers, lists and texts."""
    config = replace(design.world, seed=number)
    if design.coverage:
        return {"coverage": coverage(PlantedWorld(config), design.settings, seed=0)}
    worlds = [PlantedWorld(replace(config, run=run)) for run in range(design.runs)]
    measurements, naive, latents = [], [], []
    for seed in range(design.seeds):
        shared: dict[Name, PlantedSAE] = {}
        for world in worlds:
            saes = ChainTrainer(world, design.settings, seed).train((NULL, REPEAT), shared)
            shared = {name: sae for name, sae in saes.items() if name.chain == NULL or name.stage == 0}
            measurements.append(drift_sums(world, measure(world, saes), seed))
            if world.config.run == 0:
                naive.append(_naive(world, saes))
                latents.append(_latents(world, saes))
    return {
        "kl": [world.kl for world in worlds],
        "decomposition": decomposition_table(measurements).to_dict("list"),
        "naive": naive,
        "latents": latents,
    }


def _latents(world: PlantedWorld, saes: dict[Name, PlantedSAE]) -> dict[str, Any]:
    """What is said of single latents, of one SAE seed, at the last stage."""
    last, base = world.stages - 1, saes[Name(REAL, 0)]
    rates, turned = changed_rates(world, saes, last), turned_by_index(saes, last)
    (born, died), (null_born, null_died) = (born_and_died(world, saes, chain, last) for chain in (REAL, NULL))
    now = saes[Name(REAL, last)]
    return {
        "re-initialised": int(now.reinitialised.sum()),
        "changed rates": int(rates.sum()),
        "rate": score(world, base, 0, "rate", rates),
        "born": score(world, now, last, "born", born),
        "died": score(world, base, 0, "died", died),
        "null born": int(null_born.sum()),
        "null died": int(null_died.sum()),
        "naive born": score(world, now, last, "born", turned),
        "naive died": score(world, base, 0, "died", turned),
    }


def _naive(world: PlantedWorld, saes: dict[Name, PlantedSAE]) -> dict[str, Any]:
    """Of one SAE seed, at the last stage."""
    last = world.stages - 1
    aligned = index_aligned(saes, last)
    return {
        **aligned._asdict(),
        "rows": row_intervals(world, saes, last),
        "firing": row_level_firing_discoveries(world, saes[Name(REAL, 0)].model, last),
        "latents": saes[Name(REAL, 0)].model.config.d_sae,
    }
