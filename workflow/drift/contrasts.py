"""The table contrasts: what one run changed more than another, from the same prompts drawn for both."""

from itertools import combinations
from typing import NamedTuple

from torch import Tensor

from workflow.drift.estimates import Measurement, estimate
from workflow.formats.claim_columns import Contrast
from workflow.formats.drift import SINKS

OF_CELL = ("text", "kind", "seed", "layer")


class Change(NamedTuple):
    """Shift and adaptation of one run at one stage in every bootstrap replicate."""

    stage: str
    update: int
    sinks: str
    shift: Tensor
    adaptation: Tensor | None


class Run(NamedTuple):
    """One run in one cell."""

    name: str
    problems: list[str]
    changes: list[Change]


class RunsByCell:
    """The changes of all runs, by the cell in which they can be compared."""

    def __init__(self) -> None:
        self._found: dict[tuple, list[Run]] = {}

    def add(self, measured: Measurement) -> None:
        """Take note of a run's measurement in one cell."""
        facts, changes = measured.sums.manifest, []
        for stage, update in facts["stages"][1:]:
            for sinks in SINKS:
                terms = measured.terms(stage, sinks)
                changes.append(Change(stage, update, sinks, terms.shift, terms.adaptation))
        cell = tuple(facts[name] for name in OF_CELL)
        self._found.setdefault(cell, []).append(Run(facts["run"], facts["problems"], changes))

    def contrasts(self, confidence: float) -> list[Contrast]:
        """A row per two runs of a cell, stage of both, and treatment of sinks; only of runs measured on the same problems."""
        rows = []
        for cell, runs in self._found.items():
            for one, other in combinations(runs, 2):
                if one.problems == other.problems:
                    theirs = {change[:3]: change for change in other.changes}
                    pairs = [(change, theirs[change[:3]]) for change in one.changes if change[:3] in theirs]
                    names = dict(zip(OF_CELL, cell, strict=True)) | {"run": one.name, "against": other.name}
                    rows += [_row(names, change, against, confidence) for change, against in pairs]
        return rows


def _row(names: dict, change: Change, against: Change, confidence: float) -> Contrast:
    adaptation = None
    if change.adaptation is not None and against.adaptation is not None:
        adaptation = estimate(change.adaptation - against.adaptation, confidence)
    shift = estimate(change.shift - against.shift, confidence)
    return Contrast(**names, **change._replace(shift=shift, adaptation=adaptation)._asdict())
