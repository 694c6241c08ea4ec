"""Which latents are intervened upon: those that turned most beyond refit, random ones that fire as often, the null chain's."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sae_core.metrics.firing import FiringCounter, latent_totals
from sae_core.models.sae import SAE
from workflow.config.section import ConfigError
from workflow.formats.activations import Store
from workflow.formats.interventions import DRIFTED, NULL, RANDOM
from workflow.formats.saes import StoredSae

ROWS = 4096
"""Rows that are encoded together."""
MOST_VALUES = 1 << 16
"""Activations of a latent that its 95th percentile is taken of, the first ones: memory then does not grow with the rows."""
QUANTILE = 0.95
CANDIDATES = 10
"""Random latents are drawn from this many with the nearest firing rates, or from more where more are to be drawn."""


class Firing(NamedTuple):
    """How the latents of one SAE fire on kept rows."""

    rate: np.ndarray
    """Share of rows on which each is active, float64 [d_sae]."""
    mean: np.ndarray
    """Mean of f over all rows, those where it is 0 included."""
    alive: np.ndarray
    """Bool [d_sae]: active on ≥ drift.min_firings rows of ≥ drift.min_prompts problems."""


class Chosen(NamedTuple):
    """One latent that is intervened upon."""

    group: str
    """`drifted`, `random` or `null`."""
    member: int
    """Place in the group."""
    draw: int
    """Of a random one: for each drifted latent there is one of each draw. Else 0."""
    latent: int
    """Index in its SAE: of the chain `null` for the group `null`, else of `real`."""
    rate: float
    turn: float
    excess: float


@torch.inference_mode()
def firing_of(store: Store, sae: SAE, min_firings: int, min_prompts: int) -> Firing:
    """How the latents of an SAE fire on the rows of a store, read once."""
    device, problems = sae.W_enc.device, np.array(store.rows["problem"].cat.codes, dtype=np.int64)
    counter = FiringCounter(int(problems.max()) + 1, sae.config.d_sae)
    for batch, where in store.sequential(ROWS):
        counter.add(sae.encode(batch.to(device)), torch.from_numpy(problems[where]))
    totals = latent_totals(counter.sums())
    alive = (totals.firings >= min_firings) & (totals.prompts >= min_prompts)
    return Firing(totals.firings.numpy() / len(store), totals.activation.numpy() / len(store), alive.numpy())


@torch.inference_mode()
def strong_activations(store: Store, sae: SAE, latents: Sequence[int]) -> np.ndarray:
    """95th percentile of each latent's activations where it is active, float64; 0 of one that never is."""
    device, found = sae.W_enc.device, {latent: torch.empty(0) for latent in latents}
    for batch, _ in store.sequential(ROWS):
        codes = sae.encode(batch.to(device)).active()
        for latent, values in found.items():
            if len(values) < MOST_VALUES:
                found[latent] = torch.cat([values, codes.values[codes.latents == latent].cpu()])[:MOST_VALUES]
    return np.array([float(np.quantile(found[i].numpy(), QUANTILE)) if len(found[i]) else 0.0 for i in latents])


def turns(now: StoredSae, base: StoredSae) -> np.ndarray:
    """1 − cosine of each latent's decoder direction with that in S_0; NaN where it was re-initialised since."""
    cosine = torch.nn.functional.cosine_similarity(now.model.W_dec.detach().double(), base.model.W_dec.detach().double(), dim=1)
    return np.where(now.extras["reinitialised"].numpy().astype(bool), np.nan, 1 - cosine.cpu().numpy())


def excess_turns(turn: np.ndarray, null_turn: np.ndarray, density: np.ndarray) -> np.ndarray:
    """Turn of each latent beyond the mean turn of the null chain's latents in the same decile of density; NaN where there are none.

    Rare latents turn more under refit, so the null is matched by density (see `latent_columns.Latent.cosine_excess`).

    Args:
        turn: of the latents in question, NaN for those that do not count.
        null_turn: of the chain `null`, NaN for those that do not count.
        density: firing rates in S_0 by which both are binned.
    """
    bins = np.searchsorted(np.quantile(density, np.arange(1, 10) / 10), density, side="left")
    expected = np.full(10, np.nan)
    for one in range(10):
        if len(like := null_turn[(bins == one) & ~np.isnan(null_turn)]):
            expected[one] = like.mean()
    return turn - expected[bins]


def choose_latents(
    *, real: Firing, null: Firing, turn: np.ndarray, null_turn: np.ndarray, density: np.ndarray, latents: int, draws: int, seed: int
) -> list[Chosen]:
    """The latents of all groups, `drifted` first.

    Args:
        real: firing of S_t on X_t.
        null: firing of U_t on X_t.
        turn: `turns` of S_t.
        null_turn: `turns` of U_t.
        density: firing rates of S_0.
        latents: how many drifted latents, and as many of the null chain; fewer where fewer are alive.
        draws: random latents for each drifted one; fewer where there are not enough.
        seed: of the draws.

    Raises:
        ConfigError: no latent of one of the chains is alive and comparable with S_0.
    """
    excess, null_excess = excess_turns(turn, null_turn, density), excess_turns(null_turn, null_turn, density)
    top = _highest(np.where(real.alive, excess, np.nan), latents, "real")
    null_top = _highest(np.where(null.alive, null_excess, np.nan), latents, "null")
    free = real.alive & ~np.isnan(turn)
    free[top] = False
    drawn = _like_in_rate(real.rate, top, free, draws, np.random.default_rng(seed))
    parts = ((DRIFTED, [(i, 0) for i in top], real, turn, excess), (RANDOM, drawn, real, turn, excess),
             (NULL, [(i, 0) for i in null_top], null, null_turn, null_excess))  # fmt: skip
    return [
        Chosen(group, member, draw, int(i), float(firing.rate[i]), float(turned[i]), float(beyond[i]))
        for group, members, firing, turned, beyond in parts
        for member, (i, draw) in enumerate(members)
    ]


def _highest(score: np.ndarray, count: int, chain: str) -> list[int]:
    order = [int(i) for i in np.argsort(-score, kind="stable") if not np.isnan(score[i])]
    if not order:
        raise ConfigError(
            f"At least one latent of the chain {chain} must be alive and not re-initialised since base; none of {len(score)} is. "
            "Lower drift.min_firings, train longer, or set interventions.causal.latents=0."
        )
    return order[:count]


def _like_in_rate(
    rate: np.ndarray, chosen: Sequence[int], free: np.ndarray, draws: int, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """(latent, draw): random free latents with about the firing rate of each chosen one, none twice."""
    free, found = free.copy(), []
    for latent in chosen:
        pool = np.flatnonzero(free)
        near = pool[np.argsort(np.abs(np.log(rate[pool]) - np.log(rate[latent])), kind="stable")][: max(CANDIDATES, 2 * draws)]
        for draw, other in enumerate(rng.permutation(near)[:draws]):
            found.append((int(other), draw))
            free[other] = False
    return found


def decoder_rows(sae: SAE, latents: Tensor | Sequence[int]) -> Tensor:
    """What one unit of each latent adds to a row in the units of the SAE, [latent, d_model]."""
    rows, unit = sae.W_dec[latents], sae.code_unit()
    return rows if unit is None else rows / unit[latents][:, None]
