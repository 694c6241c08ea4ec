"""What is said of single latents of a planted world by the workflow's own tests, beside what is true of them."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.validation.tables import CONFIDENCE
from sae_core.metrics.firing import FiringSums, firing_sums, latent_totals
from sae_core.metrics.latent_scaling import scaling, scaling_sums
from sae_core.models.sae import SAE
from sae_core.planted.chains import NULL, REAL, Name, PlantedSAE, kept_rows
from sae_core.planted.measuring import HELD_OUT
from sae_core.planted.recovery import recovery
from sae_core.planted.world import PlantedWorld
from workflow.drift.births import AliveRule, alive_states, births, deaths
from workflow.drift.kinship import kinship
from workflow.drift.matching import unit
from workflow.latent_tests import rate_tests
from workflow.prompt_firings import PairedFirings, PromptFirings

ALIVE = AliveRule(min_firings=20, min_prompts=10, keep_firings=10, keep_prompts=5)
RELATED, UNEXPLAINED = 0.7, 0.5
STABLE_MARGIN, DISCOVERY_RATE = 0.2, 0.05
Saes = Mapping[Name, PlantedSAE]


class Score(NamedTuple):
    """Calls beside the truth, as counts that add up over worlds."""

    called: int
    """Latents that were called."""
    right: int
    """Of those, latents that stand for a planted direction of that event."""
    found: int
    """Planted directions of that event with a latent that was called."""
    findable: int
    """Planted directions of that event with a latent that stands for them."""
    planted: int
    """Planted directions of that event."""


def changed_rates(world: PlantedWorld, saes: Saes, stage: int) -> np.ndarray:
    """Latents of the frozen base SAE whose rate changed by the test over prompts, bool [latent]."""
    problems = [f"p{prompt:05d}" for prompt in range(world.config.prompts)]
    base = saes[Name(REAL, 0)].model
    both = [PromptFirings(problems, _firings(world, base, one)) for one in (0, stage)]
    found = rate_tests(
        PairedFirings(*both),
        min_firings=ALIVE.min_firings,
        min_prompts=ALIVE.min_prompts,
        margin=STABLE_MARGIN,
        confidence=CONFIDENCE,
    )
    return np.nan_to_num(found.q, nan=1.0) <= DISCOVERY_RATE


def born_and_died(world: PlantedWorld, saes: Saes, chain: str, stage: int) -> tuple[np.ndarray, np.ndarray]:
    """Latents called born (of the later SAE) and died (of the base SAE) by conditions 1 to 4, bool [latent] each.

    A chain is looked at on rows of the kind that it trains on.
    """
    before, now = saes[Name(REAL, 0)], saes[Name(chain, stage)]
    store = 0 if chain == NULL else stage
    totals = [latent_totals(_firings(world, one.model, at)) for one, at in ((before, 0), (now, store))]
    marked = now.reinitialised.numpy()
    firings, prompts = (np.stack(both) for both in ([one.firings for one in totals], [one.prompts for one in totals]))
    was, now_is = alive_states(firings, prompts, np.stack([np.zeros_like(marked), marked]), ALIVE)
    old, new = (unit(one.model.W_dec.detach().numpy()) for one in (before, now))
    common = {
        "alive_before": was, "alive_now": now_is, "own_cosine": (old * new).sum(1), "reinitialised": marked, "max_cosine": RELATED,
        "min_unexplained": UNEXPLAINED,
    }  # fmt: skip
    known, left = _unexplained(world, now.model, before.model, store), _unexplained(world, before.model, now.model, 0, now_is)
    kin = kinship(new, old, now_is, was)
    born = births(ancestor_cosine=kin.ancestor_cosine, unexplained_share=known, **common)
    died = deaths(descendant_cosine=kin.descendant_cosine, unexplained_share=left, **common)
    return born.born, died.born


def turned_by_index(saes: Saes, stage: int) -> np.ndarray:
    """Latents whose decoder is no relative of that of the same index at base: what is naively counted as born, and as died."""
    base, now = (saes[Name(REAL, one)].model.W_dec.detach() for one in (0, stage))
    return (torch.nn.functional.cosine_similarity(base, now) < RELATED).numpy()


def score(world: PlantedWorld, sae: PlantedSAE, stage: int, label: str, called: np.ndarray) -> Score:
    """Calls about the latents of an SAE beside the directions of one event.

    Args:
        stage: at which latents stand for directions: that of births, base for deaths.
    """
    truth = world.dictionary.stages[stage]
    mine = np.array([one == label for one in world.dictionary.labels])
    found = recovery(sae.model.W_dec, truth)
    right = called & (found.direction >= 0) & mine[found.direction]
    return Score(
        int(called.sum()),
        int(right.sum()),
        len(np.unique(found.direction[right])),
        int((found.recovered & mine).sum()),
        int(mine.sum()),
    )


@torch.no_grad()
def _firings(world: PlantedWorld, sae: SAE, stage: int) -> FiringSums:
    rows = world.rows(HELD_OUT, stage)
    kept = kept_rows(rows.x)
    return firing_sums(sae.encode(rows.x[kept]), rows.prompt[kept], world.config.prompts, sae.config.d_sae)


@torch.no_grad()
def _unexplained(world: PlantedWorld, asked: SAE, by: SAE, stage: int, alive: np.ndarray | None = None) -> np.ndarray:
    """ν of the latents of one SAE by another, or by those of its latents that are alive, on rows of a stage."""
    x = world.rows(HELD_OUT, stage).x
    x, decoder = x[kept_rows(x)], asked.W_dec.detach()
    codes = by.encode(x)
    used = codes if alive is None else codes.only(torch.from_numpy(alive)[codes.latents])
    return scaling(scaling_sums(asked.encode(x), decoder, x, by.decode(used, x), x.mean(0)), decoder).unexplained.numpy()
