"""How often intervals hold the truth: many small sets of prompts of one world, with the same SAEs, against all prompts together."""

from typing import Any

import torch

from benchmarks.validation.tables import CONFIDENCE, drift_sums, only_prompts
from sae_core.planted.chains import NULL, ChainSettings, ChainTrainer
from sae_core.planted.measuring import Measured, measure
from sae_core.planted.world import PlantedWorld
from workflow.drift.estimates import Measurement
from workflow.formats.drift_columns import Estimate

POPULATION, SET = 4000, 100
"""Prompts of the population and of one set; all sets are disjoint."""
REPLICATES, ROW_REPLICATES = 1000, 300
TERMS = ("delta", "shift", "adaptation", "contrast")
STAGE = 1


def coverage(world: PlantedWorld, settings: ChainSettings, seed: int) -> dict[str, Any]:
    """By prompt and by row: how many sets, and in how many the interval of each term holds its value in the population."""
    saes = ChainTrainer(world, settings, seed).train((NULL,))
    by_prompt = measure(world, saes, "population", POPULATION)
    by_row = measure(world, saes, "population", POPULATION, by_row=True)
    truth = _terms(world, by_prompt, replicates=1)
    held: dict[str, dict[str, int]] = {unit: dict.fromkeys(TERMS, 0) for unit in ("prompt", "row")}
    rows = torch.arange(POPULATION * world.config.rows_per_prompt).view(POPULATION, -1)
    for prompts in torch.arange(POPULATION).view(-1, SET):
        found = {
            "prompt": _terms(world, only_prompts(by_prompt, prompts), REPLICATES),
            "row": _terms(world, only_prompts(by_row, rows[prompts].flatten()), ROW_REPLICATES),
        }
        for unit, intervals in found.items():
            for term in TERMS:
                held[unit][term] += intervals[term].low <= truth[term].value <= intervals[term].high
    return {"sets": POPULATION // SET, "held": held, "truth": {term: truth[term].value for term in TERMS}}


def _terms(world: PlantedWorld, measured: Measured, replicates: int) -> dict[str, Estimate]:
    sums = drift_sums(world, measured, seed=0)
    measurement = Measurement(sums, replicates, CONFIDENCE, seed=0)
    terms = measurement.terms(sums.stages[STAGE], "dropped")._asdict()
    return {term: measurement.estimate(terms[term]) for term in TERMS}
