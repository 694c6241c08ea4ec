"""One row per SAE: how many of its latents changed, turned, were born and died, beside the null chain; and one per event."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.special import stdtrit

from sae_core.metrics.firing import FiringSums, latent_totals
from workflow.config.drift import DriftConfig
from workflow.drift.births import excess
from workflow.drift.inputs import Cell
from workflow.drift.kinship import kinship, mmcs
from workflow.drift.latents import Measured
from workflow.drift.lives import Fate, directions
from workflow.drift.matching import match, renaming_gap
from workflow.drift.views import KeptFirings, View
from workflow.formats.drift import BASE, NULL, REAL, own_pair
from workflow.formats.latent_columns import Dictionary, Event
from workflow.latent_tests import q_values


class Effective(NamedTuple):
    """An effective number of latents with its interval."""

    value: float
    low: float
    high: float


def effective_interval(sums: FiringSums, confidence: float) -> Effective:
    """2^H of the distribution of firings over latents, and its interval over prompts.

    H is linearised: with p_i = c_i/Σc and H in nats, a prompt with m_i firings moves it by Σ m_i(−ln p_i − H)/Σc, which adds up to
    0 over prompts. So its variance is n/(n−1)·Σ of their squares and its distribution t with n−1 degrees of freedom.

    Source: entropy's number of equally used latents, Hill 1973, Ecology 54; linearisation over clusters, Cochran 1977, ch. 6.
    """
    firings = latent_totals(sums).firings.numpy().astype(np.float64)
    n, total = int((sums.rows > 0).sum()), firings.sum()
    if not total:
        return Effective(*[float("nan")] * 3)
    surprise = -np.log(np.where(firings > 0, firings, total) / total)
    entropy = float((firings * surprise).sum() / total)
    weights = sums.firings.numpy() * (surprise - entropy)[sums.latents.numpy()] / total
    moved = np.bincount(sums.prompts().numpy(), weights=weights, minlength=len(sums.rows))
    half = float(stdtrit(n - 1, (1 + confidence) / 2) * np.sqrt(n / (n - 1) * np.square(moved).sum()))
    return Effective(*(float(np.exp(entropy + sign * half)) for sign in (0, -1, 1)))


def dictionary_rows(
    measured: Measured, firings: KeptFirings, table: pa.Table, cell: Cell, updates: Mapping[str, int], drift: DriftConfig
) -> list[Dictionary]:
    """One row per SAE, base first.

    Args:
        measured: what is known of latents.
        firings: counts by prompt.
        table: the table of latents.
        cell: what is measured.
        updates: PPO updates by stage.
        drift: thresholds.
    """
    rows = []
    for name in measured.saes:
        chain, stage = name
        here = table.filter((pc.field("chain") == chain) & (pc.field("stage") == stage))
        effective = effective_interval(firings.of(View(own_pair(chain, stage))), drift.confidence)
        row = Dictionary(
            **cell._asdict(), chain=chain, stage=stage, update=updates[stage], latents=len(here), alive=_count(here, "alive"),
            reinitialised=_count(here, "reinitialised"), effective=effective.value, effective_low=effective.low,
            effective_high=effective.high,
        )  # fmt: skip
        if stage != BASE:
            row = row._replace(**_tests(here, chain, drift), **_matched(measured, name, drift))  # type: ignore[arg-type]  # several types
        if stage != BASE and chain != REAL:
            row = row._replace(**_beside_real(measured, name, drift))  # type: ignore[arg-type]  # several types
        if chain == REAL and (NULL, stage) in measured.compared:
            row = row._replace(**_beyond_null(measured.compared[name].fate, measured.compared[NULL, stage].fate))
        rows.append(row)
    return rows


def _tests(latents: pa.Table, chain: str, drift: DriftConfig) -> dict[str, int | None]:
    """Lengths of the lists."""
    q = {name: _floats(latents, name) for name in ("rate_q", "rate_q_dependent", "stable_q", "threshold_q", "magnitude_q")}
    lists = {name: values <= drift.fdr for name, values in q.items()}
    # of signs, since a latent that never fired before has an infinite ratio
    same = np.sign(_floats(latents, "rate_log_ratio")) * np.sign(_floats(latents, "threshold_log_ratio")) > 0
    turned = _floats(latents, "cosine_p")
    return {
        "rates_tested": _count(latents, "rate_tested"),
        "rates_changed": int(lists["rate_q"].sum()),
        "rates_changed_dependent": int(lists["rate_q_dependent"].sum()),
        "rates_confirmed": _count(latents, "rate_confirmed"),
        "rates_stable": int(lists["stable_q"].sum()),
        "thresholds_changed": None if chain == NULL else int(lists["threshold_q"].sum()),
        "rates_changed_both": None if chain == NULL else int((lists["rate_q"] & lists["threshold_q"] & same).sum()),
        "magnitudes_changed": int(lists["magnitude_q"].sum()),
        "turned": None if np.isnan(turned).all() else int((q_values(turned, "bh") <= drift.fdr).sum()),
    }


def _matched(measured: Measured, name: tuple[str, str], drift: DriftConfig) -> dict[str, float | int | bool | None]:
    """Births, deaths, and the latents matched with those of base."""
    one, life, before = measured.compared[name], measured.lives[name], measured.lives[REAL, BASE]
    mine, theirs = directions(measured.saes[name]), directions(measured.saes[REAL, BASE])
    gap = renaming_gap(mine, theirs, life.usable & before.alive, drift.exact_matching_limit)
    counts = dict(zip(("born_appeared", "born_unrelated", "born_own", "born"), one.fate.born.remaining(), strict=True))
    counts |= dict(zip(("died_vanished", "died_unrelated", "died_own", "died"), one.fate.died.remaining(), strict=True))
    numbers = {
        "mmcs": mmcs(one.fate.ancestor_cosine[life.alive], before.alive), "aligned_cosine": gap.aligned,
        "matched_cosine": gap.matched, "renaming_gap": gap.gap,
    }  # fmt: skip
    lineage = one.fate.lineage
    return counts | {key: None if np.isnan(value) else value for key, value in numbers.items()} | {
        "matching_exact": gap.exact, "sign_flips": one.changes.confirmation.flips, "unplaced": len(lineage.unplaced_now),
        "unplaced_base": len(lineage.unplaced_base),
    }  # fmt: skip


def _beside_real(measured: Measured, name: tuple[str, str], drift: DriftConfig) -> dict[str, float | int | None]:
    """The latents of a control chain matched with those of `real` at the same stage, by direction alone."""
    real = REAL, name[1]
    if real not in measured.saes:
        return {}
    mine, theirs = directions(measured.saes[name]), directions(measured.saes[real])
    alive, alive_real = measured.lives[name].alive, measured.lives[real].alive
    matching, kin = match(mine, theirs, alive, alive_real, drift.exact_matching_limit), kinship(mine, theirs, alive, alive_real)
    found = {
        "real_mmcs": mmcs(kin.ancestor_cosine[alive], alive_real), "real_mmcs_back": mmcs(kin.descendant_cosine[alive_real], alive),
        "real_matched_cosine": matching.mean,
    }  # fmt: skip
    return {key: None if np.isnan(value) else value for key, value in found.items()} | {"real_matched": len(matching.cosine)}


def _beyond_null(real: Fate, null: Fate) -> dict[str, int]:
    """(5): the counts of the null chain, and what is left without them."""
    born, died = excess(real.born.born, null.born.born), excess(real.died.born, null.died.born)
    return {"born_null": born.null, "born_excess": born.excess, "died_null": died.null, "died_excess": died.excess}


def _count(latents: pa.Table, column: str) -> int:
    return latents[column].to_pylist().count(True)


def _floats(latents: pa.Table, column: str) -> np.ndarray:
    """A column of numbers, NaN where it is null."""
    return latents[column].to_numpy()


def event_rows(measured: Measured, cell: Cell, updates: Mapping[str, int]) -> list[Event]:
    """One row per event of every SAE behind base."""
    return [
        Event(**cell._asdict(), chain=chain, stage=stage, update=updates[stage], **event.row())  # type: ignore[arg-type]  # several types
        for (chain, stage), one in measured.compared.items()
        for event in one.fate.lineage.events
    ]
