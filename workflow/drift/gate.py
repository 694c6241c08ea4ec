"""The claim gate: what may be said about a stage, from the intervals of all its SAE seeds, texts, sinks and runs.

A claim "the stage differs from base beyond refit" needs all of its conditions; one about the reward or about latents one more.
A condition that was not measured is null and makes the claim exploratory; one that fails takes it back.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd

from workflow.config.recipes import Recipe
from workflow.drift.sinks import described, known
from workflow.formats.claim_columns import BEYOND, EXPLORATORY, NO_NULL, NOT_BEYOND, Claim
from workflow.formats.drift import NULL, REAL
from workflow.formats.drift_columns import Estimate
from workflow.frames import Table

SAE_SEEDS, RL_SEEDS = 3, 2
"""Fewer seeds than these make a claim exploratory."""
OF_CLAIM = ["text", "kind", "layer", "stage"]
OF_ALL = ("shift", "adaptation", "above_floor", "same_in_seeds", "anchored", "with_sinks", "replayed")
"""Conditions of every claim, by the columns of the table."""


class Rows(NamedTuple):
    """Rows of the decomposition of one (run, text, kind, layer, stage): one per SAE seed."""

    dropped: Table
    included: Table

    def side(self, term: str) -> int | None:
        """The side of 0 on which the intervals of all seeds lie."""
        return one_side(self.dropped, term)


def claim_rows(decomposition: Table, contrasts: Table, dictionary: Table, recipes: Mapping[str, Recipe]) -> list[Claim]:
    """A row per run, text, kind, layer and stage behind base, in the order of the decomposition.

    Args:
        decomposition: the table of that name, of all runs.
        contrasts: the table of that name.
        dictionary: the table of that name.
        recipes: of every run, by which runs repeat or control each other.
    """
    cells = {key: _rows(rows) for key, rows in decomposition.groupby(["run", *OF_CLAIM], sort=False)}
    found = []
    for (run, text, kind, layer, stage), rows in cells.items():
        repeats = [cells.get((other, text, kind, layer, stage)) for other in recipes if recipes[other].repeats(recipes[run])]
        replayed = cells.get((run, "replayed", kind, layer, stage)) if text != "replayed" else None
        at = {"text": text, "kind": kind, "layer": layer, "stage": stage}
        holds = _conditions(rows, [one for one in repeats if one is not None], replayed)
        holds["reward"] = _differs_from_permuted(run, at, contrasts, recipes)
        holds["latents"] = _latents_changed(_at(dictionary, {"run": run} | at)) if len(dictionary) else None
        found.append(_claim(run, at, rows, holds, len(repeats)))
    return found


def one_side(rows: Table, name: str) -> int | None:
    """On which side of 0 the intervals of all rows lie: 1 above, −1 below, 0 when one of them holds 0; None when not measured."""
    if not len(rows) or f"{name}_low" not in rows or rows[f"{name}_low"].isna().any():
        return None
    return int((rows[f"{name}_low"] > 0).all()) - int((rows[f"{name}_high"] < 0).all())


def _rows(rows: Table) -> Rows:
    return Rows(rows[rows["sinks"] == "dropped"], rows[rows["sinks"] == "included"])


def _conditions(rows: Rows, repeats: list[Rows], replayed: Rows | None) -> dict[str, bool | None]:
    sides = {term: rows.side(term) for term in ("shift", "adaptation")}
    return {
        "shift": sides["shift"] != 0,
        "adaptation": None if sides["adaptation"] is None else sides["adaptation"] != 0,
        "above_floor": _above_floor(rows.dropped),
        "same_in_seeds": _same_in_seeds(rows, repeats, sides),
        "anchored": all(one_side(rows.dropped, f"anchored_{term}") == side for term, side in sides.items() if side is not None),
        "with_sinks": _with_sinks(rows.included, sides),
        "replayed": None if replayed is None else _agrees(rows.dropped, replayed.dropped),
    }


def _with_sinks(rows: Table, sides: Mapping[str, int | None]) -> bool | None:
    """Whether no effect turns round with sinks included; null where the SAEs of base know nothing of sinks.

    Sinks hide what happens elsewhere, so they need not show it as well.
    """
    if not len(rows) or not known(rows):
        return None
    return all(one_side(rows, term) != -side for term, side in sides.items() if side)


def _above_floor(rows: Table) -> bool | None:
    """Whether shift and adaptation surely exceed what one hop more on the same rows changes between stages, in every seed.

    Like them, that floor is a difference in which the progress of training cancels; `repeat_floor` is that progress.
    """
    floor, terms = "repeat_shift_floor_high", ("shift", "adaptation")
    if floor not in rows or rows[[floor, "adaptation_low"]].isna().any().any():
        return None
    nearest = [rows[f"{term}_low"].where(rows[term] > 0, -rows[f"{term}_high"]) for term in terms]
    return all(bool((distance > rows[floor]).all()) for distance in nearest)


def _same_in_seeds(rows: Rows, repeats: list[Rows], sides: Mapping[str, int | None]) -> bool | None:
    """Whether every RL seed shows the same sides; null where there are too few seeds to tell."""
    if any(other.side(term) == -side for other in repeats for term, side in sides.items() if side):
        return False
    if rows.dropped["seed"].nunique() < SAE_SEEDS or len(repeats) < RL_SEEDS:
        return None
    return all(other.side(term) == side for other in repeats for term, side in sides.items())


def _agrees(rows: Table, replayed: Table) -> bool:
    """Whether the means over seeds have the same signs on replayed text."""
    terms = [term for term in ("shift", "adaptation") if one_side(rows, term) is not None and one_side(replayed, term) is not None]
    return all(rows[term].mean() * replayed[term].mean() > 0 for term in terms)


def _differs_from_permuted(run: str, at: dict[str, Any], contrasts: Table, recipes: Mapping[str, Recipe]) -> bool | None:
    """Whether shift and adaptation differ from those of every run with permuted rewards, in every SAE seed."""
    controls = [other for other in recipes if recipes[other].controls(recipes[run])]
    if not controls or not len(contrasts):
        return None
    here = _at(contrasts, at | {"sinks": "dropped"})
    found = []
    for control in controls:
        pair = here[((here["run"] == run) & (here["against"] == control)) | ((here["run"] == control) & (here["against"] == run))]
        found += [one_side(pair, "shift"), one_side(pair, "adaptation")]
    return None if None in found else 0 not in found


def _latents_changed(rows: Table) -> bool | None:
    """Whether S_0 and U_t both have latents that fire otherwise on rows of the stage, in every SAE seed."""
    found = rows.loc[rows["chain"].isin([REAL, NULL]), "rates_confirmed"].dropna()
    return bool((found > 0).all()) if len(found) else None


def _at(table: Table, where: dict[str, Any]) -> Table:
    return table[(table[list(where)] == pd.Series(where)).all(axis=1)]


def _claim(run: str, at: dict[str, Any], rows: Rows, holds: dict[str, bool | None], rl_seeds: int) -> Claim:
    general = {name: holds[name] for name in OF_ALL}
    verdict = _verdict(general)
    dropped = rows.dropped
    return Claim(
        run=run, **at, update=int(dropped["update"].iloc[0]), sae_seeds=int(dropped["seed"].nunique()), rl_seeds=rl_seeds,
        shift=_span(dropped, "shift"), adaptation=None if holds["adaptation"] is None else _span(dropped, "adaptation"),
        **_columns(holds), about_sinks=None if holds["with_sinks"] else described(rows.included), refused=_refused(dropped),
        verdict=verdict,
        failing=", ".join(name for name, held in general.items() if held is False) or None,
        missing=", ".join(name for name, held in general.items() if held is None) or None,
        reward_verdict=_verdict(general | {"reward": holds["reward"]}),
        latents_verdict=_verdict(general | {"latents": holds["latents"]}),
    )  # fmt: skip


def _columns(holds: Mapping[str, bool | None]) -> dict[str, Any]:
    """Conditions by the names of their columns."""
    return {f"holds_{name}": held for name, held in holds.items()}


def _refused(rows: Table) -> str | None:
    reasons = list(rows["comparison_refused"].dropna()) if "comparison_refused" in rows else []
    return str(reasons[0]) if reasons else None


def _span(rows: Table, name: str) -> Estimate:
    """The mean over SAE seeds, and what all their intervals lie in."""
    return Estimate(float(rows[name].mean()), float(rows[f"{name}_low"].min()), float(rows[f"{name}_high"].max()))


def _verdict(holds: Mapping[str, bool | None]) -> str:
    if holds["adaptation"] is None:
        return NO_NULL
    if False in holds.values():
        return NOT_BEYOND
    return EXPLORATORY if None in holds.values() else BEYOND
