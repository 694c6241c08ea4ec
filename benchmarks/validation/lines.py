"""From outcomes of worlds to the lines of the table of validation."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from benchmarks.validation.coverage import TERMS
from benchmarks.validation.designs import ANGLES, NO_DRIFT, SINGLE
from benchmarks.validation.gate import passed, verdicts
from benchmarks.validation.latents import Score
from workflow.frames import Table

Outcomes = Mapping[str, Sequence[dict[str, Any]]]
FALSE_CLAIMS, COVERAGE = 0.05, (0.90, 0.98)
ENOUGH_WORLDS = 200


class Line(NamedTuple):
    """One number of the validation."""

    world: str
    """Family of worlds."""
    metric: str
    """What was counted or measured, in words; what begins with "naive" is what would have been claimed otherwise."""
    value: float
    """NaN where there was nothing to count."""
    bound: str
    """What the value must be; empty where it is only told."""
    holds: bool | None
    """Whether it is; None without a bound."""


def table(found: Outcomes) -> list[Line]:
    """All lines, families without drift first."""
    lines = list(_no_drift("no drift", [one for name in NO_DRIFT for one in found[f"no drift: {name}"]], ENOUGH_WORLDS))
    for name in NO_DRIFT:
        lines += _no_drift(f"no drift: {name}", found[f"no drift: {name}"])
    for angle in ANGLES:
        lines += _planted(f"rotation {angle:g}", found[f"rotation {angle:g}"], signed=True)
    for name in SINGLE:
        lines += _planted(name, found[name], signed=False)
    lines += _rate_events(found["rate"])
    lines += _lives(found["births and deaths"])
    lines += _reinitialised("no drift: re-initialised", found["no drift: re-initialised"])
    lines += _heavy(found["heavy"])
    for name in found:
        if name.startswith("coverage: "):
            lines += _covered(name, found[name])
    return lines


def _no_drift(world: str, outcomes: Sequence[dict[str, Any]], enough: int | None = None) -> Iterator[Line]:
    terms, naive = _dropped(outcomes), [one for outcome in outcomes for one in outcome["naive"]]
    if enough:
        yield _at_least(world, "worlds", len(outcomes), enough)
    yield _at_most(world, "gate: worlds with a claim that passes", _mean(_gate_passes(outcomes)), FALSE_CLAIMS)
    yield _within(world, "interval of shift holds 0", _mean(~_excludes(terms, "shift")))
    yield _told(world, "interval of adaptation of one SAE seed holds 0", _mean(~_excludes(terms, "adaptation")))
    for term in ("shift", "adaptation"):
        yield _at_most(world, f"intervals of {term} of all SAE seeds on one side of 0", _mean(_agreeing(terms, term)), FALSE_CLAIMS)
    yield _told(world, "naive: interval of ΔNMSE over rows excludes 0", _mean([_outside(one["rows"]["delta"]) for one in naive]))
    yield _told(world, "naive: interval of shift over rows excludes 0", _mean([_outside(one["rows"]["shift"]) for one in naive]))
    yield _told(world, "naive: 1 − decoder cosine by index", _mean([one["real"] for one in naive]))
    yield _told(world, "1 − decoder cosine by index, null chain", _mean([one["null"] for one in naive]))
    yield _told(world, "naive: latents with decoder cosine below 0.9", _mean([one["changed"] for one in naive]))
    yield _told(
        world,
        "naive: latents whose rate changed by a test over rows, FDR 5 %",
        _mean([one["firing"] / one["latents"] for one in naive]),
    )
    latents = [one for outcome in outcomes for one in outcome["latents"]]
    yield _at_most(
        world,
        "SAEs with a latent whose rate changed by the test over prompts",
        _mean([one["changed rates"] > 0 for one in latents]),
        FALSE_CLAIMS,
    )
    yield _told(world, "latents called born", _mean([one["born"][0] for one in latents]))
    yield _told(world, "latents called born, null chain", _mean([one["null born"] for one in latents]))
    yield _told(world, "latents called died", _mean([one["died"][0] for one in latents]))
    yield _told(world, "naive: SAEs with such a latent", _mean([one["firing"] > 0 for one in naive]))


def _planted(world: str, outcomes: Sequence[dict[str, Any]], signed: bool) -> Iterator[Line]:
    """`signed`: shift must rise, and adaptation fall."""
    terms = _dropped(outcomes)
    yield _told(world, "KL proxy", _mean([outcome["kl"][0][-1] for outcome in outcomes]))
    yield _told(world, "gate: worlds with a claim that passes", _mean(_gate_passes(outcomes)))
    for term in ("shift", "adaptation"):
        yield _told(world, f"{term}, mean", _mean(terms[term]))
    yield _told(world, "naive: ΔNMSE, mean", _mean(terms["delta"]))
    if signed:
        yield _told(world, "shift above 0", _mean(terms["shift"] > 0))
        yield _told(world, "adaptation below 0", _mean(terms["adaptation"] < 0))
        yield _told(world, "naive: ΔNMSE above 0", _mean(terms["delta"] > 0))


def _rate_events(outcomes: Sequence[dict[str, Any]]) -> Iterator[Line]:
    """Whether the test over prompts finds the latents of directions whose rate changed, and how many others it lists."""
    total = _added(outcomes, "rate")
    yield _told("rate", "test of rates over prompts: directions found, of those with a latent", _share(total.found, total.findable))
    yield _told(
        "rate", "test of rates over prompts: latents of other directions, of those listed", 1 - _share(total.right, total.called)
    )


def _lives(outcomes: Sequence[dict[str, Any]]) -> Iterator[Line]:
    """Precision and recall of births and deaths."""
    for event in ("born", "died"):
        for prefix in ("", "naive "):
            total, said = _added(outcomes, prefix + event), "naive: " if prefix else ""
            yield _told("births and deaths", f"{said}latents called {event}", total.called / _saes(outcomes))
            yield _told("births and deaths", f"{said}{event}, precision", _share(total.right, total.called))
            yield _told(
                "births and deaths", f"{said}{event}, recall of directions with a latent", _share(total.found, total.findable)
            )
        yield _told("births and deaths", f"latents called {event}, null chain", _mean(_each(outcomes, f"null {event}")))
    total = _added(outcomes, "born")
    yield _told("births and deaths", "born directions with a latent", _share(total.findable, total.planted))


def _reinitialised(world: str, outcomes: Sequence[dict[str, Any]]) -> Iterator[Line]:
    """Latents that were re-initialised on the way, where nothing is born."""
    yield _told(world, "latents re-initialised in the hop", _mean(_each(outcomes, "re-initialised")))
    yield _at_most(world, "latents called born", _added(outcomes, "born").called / _saes(outcomes), 0)
    yield _told(world, "naive: latents called born", _added(outcomes, "naive born").called / _saes(outcomes))


def _added(outcomes: Sequence[dict[str, Any]], name: str) -> Score:
    return Score(*np.sum(_each(outcomes, name), axis=0).tolist())


def _each(outcomes: Sequence[dict[str, Any]], name: str) -> list[Any]:
    return [one[name] for outcome in outcomes for one in outcome["latents"]]


def _saes(outcomes: Sequence[dict[str, Any]]) -> int:
    return sum(len(outcome["latents"]) for outcome in outcomes)


def _heavy(outcomes: Sequence[dict[str, Any]]) -> Iterator[Line]:
    terms = _dropped(outcomes)
    yield _told("heavy", "gate: claims that pass", _mean([passed(claim) for outcome in outcomes for claim in _claims(outcome)]))
    yield _at_least("heavy", "shift above 0, every stage and seed", _mean(terms["shift"] > 0), 1)
    yield _at_least("heavy", "adaptation below 0, every stage and seed", _mean(terms["adaptation"] < 0), 1)
    chains = list(terms.sort_values("update").groupby(["world", "run", "seed"]))
    yield _at_least("heavy", "shift in the order of the stages", _mean([_rising(one["shift"]) for _, one in chains]), 1)
    yield _at_least("heavy", "adaptation in the order of the stages", _mean([_rising(-one["adaptation"]) for _, one in chains]), 1)
    yield _told("heavy", "naive: ΔNMSE above 0", _mean(terms["delta"] > 0))
    yield _told("heavy", "naive: ΔNMSE in the order of the stages", _mean([_rising(one["delta"]) for _, one in chains]))


def _covered(world: str, outcomes: Sequence[dict[str, Any]]) -> Iterator[Line]:
    sets = sum(outcome["coverage"]["sets"] for outcome in outcomes)
    for term in TERMS:
        held = {unit: sum(outcome["coverage"]["held"][unit][term] for outcome in outcomes) / sets for unit in ("prompt", "row")}
        yield _within(world, f"interval of {term} over prompts holds the truth", held["prompt"])
        yield _told(world, f"naive: interval of {term} over rows holds the truth", held["row"])


def _claims(outcome: dict[str, Any]) -> list[Any]:
    return verdicts(pd.DataFrame(outcome["decomposition"]))


def _gate_passes(outcomes: Sequence[dict[str, Any]]) -> list[bool]:
    return [any(map(passed, _claims(outcome))) for outcome in outcomes]


def _dropped(outcomes: Sequence[dict[str, Any]]) -> Table:
    """The tables of all worlds, sinks dropped, with the world's number."""
    whole = pd.concat([pd.DataFrame(outcome["decomposition"]).assign(world=place) for place, outcome in enumerate(outcomes)])
    return whole[whole["sinks"] == "dropped"]


def _excludes(terms: Table, term: str) -> Any:
    return (terms[f"{term}_low"] > 0) | (terms[f"{term}_high"] < 0)


def _agreeing(terms: Table, term: str) -> list[bool]:
    """Whether the intervals of all SAE seeds lie on one side of 0, per world, run and stage."""
    every = terms.groupby(["world", "run", "stage"])
    return list((every[f"{term}_low"].min() > 0) | (every[f"{term}_high"].max() < 0))


def _outside(interval: Sequence[float]) -> bool:
    return interval[0] > 0 or interval[1] < 0


def _rising(values: Any) -> bool:
    return bool((np.diff(values) > 0).all())


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def _mean(values: Any) -> float:
    return float(np.mean(np.asarray(values, dtype=np.float64)))


def _told(world: str, metric: str, value: float) -> Line:
    return Line(world, metric, value, "", None)


def _at_most(world: str, metric: str, value: float, most: float) -> Line:
    return Line(world, metric, value, f"≤ {most:g}", value <= most)


def _at_least(world: str, metric: str, value: float, least: float) -> Line:
    return Line(world, metric, value, f"≥ {least:g}", value >= least)


def _within(world: str, metric: str, value: float) -> Line:
    low, high = COVERAGE
    return Line(world, metric, value, f"{low:g}–{high:g}", low <= value <= high)
