"""The table of latents of one measurement: how each turned and fired, what became of it, and what is refit of that."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from workflow.config.drift import DriftConfig
from workflow.drift.births import Births
from workflow.drift.changes import Changes, Frozen
from workflow.drift.inputs import Cell
from workflow.drift.lives import Fate, Life, own_cosine
from workflow.drift.matching import cosine_excess, density_bins
from workflow.drift.tested import Columns, Tested, enough, mean_activation, tested_columns
from workflow.formats.drift import BASE, NULL, REAL
from workflow.formats.drift_columns import schema
from workflow.formats.latent_columns import Latent
from workflow.formats.saes import StoredSae

LATENT = schema(Latent)
SAE_FIELDS = ("chain", "stage", "update")


class Compared(NamedTuple):
    """What stands about one SAE behind base beside its life."""

    fate: Fate
    changes: Changes


class Measured(NamedTuple):
    """All that is known of the latents of one measurement, by (chain, stage)."""

    saes: Mapping[tuple[str, str], StoredSae]
    lives: Mapping[tuple[str, str], Life]
    rows: Mapping[str, int]
    """Kept rows by stage."""
    frozen: Mapping[tuple[str, str], Frozen]
    compared: Mapping[tuple[str, str], Compared]
    """Of SAEs behind base."""


def latent_table(measured: Measured, cell: Cell, updates: Mapping[str, int], drift: DriftConfig) -> pa.Table:
    """One row per (chain, stage, latent), base first; the columns are described in `formats/latent_columns.Latent`.

    Args:
        measured: what is known.
        cell: what is measured.
        updates: PPO updates by stage.
        drift: thresholds.
    """
    tables = []
    for name in measured.saes:
        columns = _own(measured, name, drift) | _turning(measured, name, drift)
        if name in measured.compared:
            columns |= _compared(measured.compared[name])
        tables.append(_arrow(columns, cell, name, updates[name[1]], len(measured.lives[name].alive)))
    return pa.concat_tables(tables)


def _arrow(columns: Columns, cell: Cell, name: tuple[str, str], update: int, d_sae: int) -> pa.Table:
    """The columns of one SAE as arrow; NaN and what is missing are nulls."""
    keys = cell._asdict() | dict(zip(SAE_FIELDS, (*name, update), strict=True))
    columns |= {key: [value] * d_sae for key, value in keys.items()} | {"latent": np.arange(d_sae)}
    arrays = [pa.array(columns.get(field.name, [None] * d_sae), field.type, from_pandas=True) for field in LATENT]
    return pa.Table.from_arrays(arrays, schema=LATENT)


def _own(measured: Measured, name: tuple[str, str], drift: DriftConfig) -> Columns:
    """What stands in every row, base included."""
    sae, base, life, frozen = measured.saes[name], measured.saes[REAL, BASE], measured.lives[name], measured.frozen[name]
    own_rows = measured.rows[BASE if name[0] == NULL else name[1]]
    return {
        "decoder_cosine": own_cosine(sae, base),
        "encoder_cosine": own_cosine(sae, base, "W_enc"),
        "firing_rate": life.totals.firings.numpy() / own_rows,
        "frozen_rate": frozen.now.firings.numpy() / frozen.rows,
        "frozen_rate_base": frozen.base.firings.numpy() / frozen.rows_base,
        "frozen_mean": mean_activation(frozen.now),
        "frozen_mean_base": mean_activation(frozen.base),
        "alive": life.alive,
        "frozen_alive": enough(frozen.now, drift),
        "frozen_alive_base": enough(frozen.base, drift),
        "reinitialised": life.reinitialised,
    }


def _turning(measured: Measured, name: tuple[str, str], drift: DriftConfig) -> Columns:
    """How much farther directions of `real` turned than those of the null chain that fire about as often at base."""
    chain, stage = name
    if chain != REAL or stage == BASE or (NULL, stage) not in measured.saes:
        return {}
    base, root = measured.saes[REAL, BASE], measured.lives[REAL, BASE]
    bins = density_bins(root.totals.firings.numpy() / measured.rows[BASE], drift.density_bins)
    usable, usable_null = (root.alive & ~measured.lives[one, stage].reinitialised for one in (REAL, NULL))
    found: Columns = {}
    for rows, excess_name, p_name in (("W_dec", "cosine_excess", "cosine_p"), ("W_enc", "encoder_excess", "encoder_p")):
        real, null = (1 - own_cosine(measured.saes[one, stage], base, rows) for one in (REAL, NULL))
        excess = cosine_excess(real, null, bins, usable, usable_null)
        found |= {excess_name: excess.excess, p_name: excess.p}
    return found


def _compared(one: Compared) -> Columns:
    fate, found = one.fate, one.changes
    return {
        **tested_columns(Tested(found.rates, found.magnitudes, found.confirmation)), **_under_threshold(found),
        "ancestor_cosine": fate.ancestor_cosine, "unexplained": fate.unexplained,
        **_conditions("born", "appeared", fate.born), "descendant_cosine": fate.descendant_cosine,
        "ancestor_unexplained": fate.ancestor_unexplained, **_conditions("died", "vanished", fate.died),
    }  # fmt: skip


def _under_threshold(found: Changes) -> Columns:
    if found.thresholds is None or found.threshold is None:
        return {}
    totals = found.threshold
    return {
        "threshold_rate": totals.now.firings.numpy() / totals.rows,
        "threshold_rate_base": totals.base.firings.numpy() / totals.rows_base,
        "threshold_log_ratio": found.thresholds.log_ratio,
        "threshold_q": found.thresholds.q,
    }


def _conditions(prefix: str, first: str, found: Births) -> Columns:
    named = zip((first, "unrelated", "own", "unexplained"), found, strict=True)
    return {f"{prefix}_{name}": mask for name, mask in named} | {prefix: found.born}
