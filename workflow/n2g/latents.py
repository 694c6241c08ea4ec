"""Which latents are mined: those that changed most from base to the last stage, random ones that fire as often, or listed ones."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

from workflow.config.section import ConfigError

CHANGED, RANDOM, LISTED, UNTRAINED = "changed", "random", "listed", "untrained"
COLUMNS = ["chain", "stage", "latent", "rate_log_ratio", "frozen_rate", "frozen_rate_base", "frozen_alive", "frozen_alive_base"]
CANDIDATES = 10
"""A random latent is drawn from so many of the nearest firing rates."""


class Chosen(NamedTuple):
    """A latent and why it is mined."""

    latent: int
    group: str


def choose_latents(table: Path | str, wanted: int | Sequence[int], *, stage: str, d_sae: int, seed: int) -> list[Chosen]:
    """The latents of one (run, kind, seed, layer), the same at every stage.

    Half of a number are those with the largest |ln(rate at the stage / rate at base)| under S_0, infinite ones first, ties by
    index; for each of these one is drawn among alive latents of like firing rate at base. A run that is base alone has random ones.

    Args:
        table: latents.parquet of the cell, of the phase drift.
        wanted: how many, or which.
        stage: the last one.
        d_sae: latents of the SAE.
        seed: of the draw.

    Raises:
        ConfigError: a listed latent that the SAE does not have, or none is alive.
    """
    if not isinstance(wanted, int):
        if beyond := [latent for latent in wanted if latent >= d_sae]:
            raise ConfigError(
                f"n2g.latents must lie between 0 and {d_sae - 1}, the latents of the SAE; got {beyond}. Correct the list."
            )
        return [Chosen(latent, LISTED) for latent in wanted]
    rows = pq.read_table(table, columns=COLUMNS).to_pandas()
    rows = rows[(rows["chain"] == "real") & (rows["stage"] == stage)].sort_values("latent")
    alive = (rows["frozen_alive"] | rows["frozen_alive_base"]).to_numpy(dtype=bool)
    if not alive.any():
        raise ConfigError(
            f"At least one latent must be alive at base or at {stage} for n2g; none of {d_sae} is. Lower drift.min_firings, train "
            "longer, or set n2g.latents=0."
        )
    change = np.abs(rows["rate_log_ratio"].to_numpy(dtype=np.float64, na_value=np.nan))
    change = np.where(alive & ~np.isnan(change), change, -1.0)
    order = np.argsort(-change, kind="stable")
    changed = [int(one) for one in order[: (wanted + 1) // 2] if change[one] >= 0]
    rate = np.maximum(rows["frozen_rate_base"].to_numpy(dtype=np.float64), 1e-9)
    drawn = _like(rate, changed, alive, wanted - len(changed), np.random.default_rng(seed))
    latents = rows["latent"].to_numpy()
    return [Chosen(int(latents[one]), CHANGED) for one in changed] + [Chosen(int(latents[one]), RANDOM) for one in drawn]


def _like(rate: np.ndarray, models: Sequence[int], alive: np.ndarray, count: int, draw: np.random.Generator) -> list[int]:
    """Random alive latents, none twice, each with about the firing rate of one of the models in turn; without models any."""
    free, found = alive.copy(), []
    free[list(models)] = False
    while len(found) < count and free.any():
        pool = np.flatnonzero(free)
        if models:
            distance = np.abs(np.log(rate[pool]) - np.log(rate[models[len(found) % len(models)]]))
            pool = pool[np.argsort(distance, kind="stable")[:CANDIDATES]]
        found.append(int(draw.choice(pool)))
        free[found[-1]] = False
    return found
