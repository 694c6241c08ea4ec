"""The table of latents of one measurement: how each turned and fired, and how it fires where no SAE was re-fitted."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from workflow.config.drift import DriftConfig
from workflow.drift.inputs import Cell
from workflow.drift.streaming import Tally
from workflow.formats.drift import BASE, NULL, REAL, Pair, own_pair
from workflow.formats.drift_columns import MEASURED_LATENT
from workflow.formats.saes import StoredSae


def counted_pairs(stages: Sequence[str], chains: Sequence[str]) -> list[Pair]:
    """Pairs whose latents are counted: every SAE on the rows its chain trains on, and that of base on all stores."""
    own = [own_pair(chain, stage) for chain in chains for stage in stages if stage != BASE]
    return list(dict.fromkeys([*(Pair(REAL, BASE, store) for store in stages), *own]))


def latent_table(
    *,
    cell: Cell,
    stages: Sequence[tuple[str, int]],
    saes: Mapping[tuple[str, str], StoredSae],
    tallies: Mapping[Pair, Tally],
    rows: Mapping[str, int],
    drift: DriftConfig,
) -> pa.Table:
    """One row per (chain, stage, latent), base first; the columns are described in `formats/drift_columns.Latent`.

    Args:
        cell: what is measured.
        stages: (name, PPO updates), base first.
        saes: by (chain, stage).
        tallies: of `counted_pairs`.
        rows: kept rows of each stage's store.
        drift: thresholds of being alive.
    """
    updates = dict(stages)
    base = saes[REAL, BASE]
    tables = []
    for (chain, stage), sae in saes.items():
        own = own_pair(chain, stage)
        mine, frozen, frozen_base = (tallies[pair] for pair in (own, Pair(REAL, BASE, own.store_stage), Pair(REAL, BASE, BASE)))
        n, n_base, d_sae = rows[own.store_stage], rows[BASE], len(mine.firings)
        columns = dict(zip(Cell._fields, ([value] * d_sae for value in cell), strict=True)) | {
            "chain": [chain] * d_sae,
            "stage": [stage] * d_sae,
            "update": [updates[stage]] * d_sae,
            "latent": np.arange(d_sae),
            "decoder_cosine": _cosine(sae.model.W_dec, base.model.W_dec),
            "encoder_cosine": _cosine(sae.model.W_enc, base.model.W_enc),
            "firing_rate": mine.firings.numpy() / n,
            "frozen_rate": frozen.firings.numpy() / n,
            "frozen_rate_base": frozen_base.firings.numpy() / n_base,
            "frozen_mean": _mean_activation(frozen),
            "frozen_mean_base": _mean_activation(frozen_base),
            "alive": _alive(mine, drift),
            "frozen_alive": _alive(frozen, drift),
            "frozen_alive_base": _alive(frozen_base, drift),
            "reinitialised": _reinitialised(sae, d_sae),
        }
        tables.append(pa.table({name: pa.array(columns[name]) for name in MEASURED_LATENT.names}).cast(MEASURED_LATENT))
    return pa.concat_tables(tables)


def cosine_excess(table: pa.Table) -> pa.Array:
    """How much farther each latent of `real` turned than latents of the `null` chain that fire about as often.

    Bins are deciles of `frozen_rate_base`, equal rates in one bin; see `formats/drift_columns.Latent.cosine_excess`.
    Source: matching the null on density follows the observation that rare latents drift more under refit.
    """
    column = {name: table[name].to_numpy() for name in ("chain", "stage", "decoder_cosine", "frozen_rate_base", "reinitialised")}
    turned, excess = 1 - column["decoder_cosine"], np.full(len(table), np.nan)
    for stage in dict.fromkeys(column["stage"]):
        own = (column["stage"] == stage) & ~column["reinitialised"]
        real, null = own & (column["chain"] == REAL), own & (column["chain"] == NULL)
        if not null.any():
            continue
        everyone = column["frozen_rate_base"][(column["stage"] == stage) & (column["chain"] == REAL)]
        edges = np.quantile(everyone, np.arange(1, 10) / 10)
        bins = np.searchsorted(edges, column["frozen_rate_base"], side="left")
        for one in np.unique(bins[real]):
            if (like := null & (bins == one)).any():
                mine = real & (bins == one)
                excess[mine] = turned[mine] - turned[like].mean()
    return pa.array(excess, pa.float64(), from_pandas=True)


def _cosine(now: Tensor, base: Tensor) -> np.ndarray:
    return torch.nn.functional.cosine_similarity(now.detach().double().cpu(), base.detach().double().cpu(), dim=1).numpy()


def _alive(tally: Tally, drift: DriftConfig) -> np.ndarray:
    return ((tally.firings >= drift.min_firings) & (tally.prompts >= drift.min_prompts)).numpy()


def _mean_activation(tally: Tally) -> pa.Array:
    mean = tally.activation / tally.firings.clamp(min=1)
    return pa.array(mean.numpy(), mask=(tally.firings == 0).numpy())


def _reinitialised(sae: StoredSae, d_sae: int) -> np.ndarray:
    flags = sae.extras["reinitialised"].numpy().astype(bool)
    assert flags.shape == (d_sae,)
    return flags
