"""The rows of the tables of step-level SAEs, from sums by problem."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from workflow.drift.splice_rows import PromptBootstrap
from workflow.formats.drift import BASE, NULL, REAL
from workflow.formats.drift_columns import Estimate
from workflow.formats.step_columns import StepDecomposition, StepTransfer

SUMMED = ("steps", "tokens", "nll", "nll_mean_code", "l1", "active")


class Cell(NamedTuple):
    """What one SSAE makes of the steps of one stage."""

    chain: str
    ssae_stage: str
    stage: str


class StepMeasurement:
    """All SSAEs of one (run, text, seed) over the same problems; a problem without steps at a stage counts nothing there."""

    def __init__(self, found: Mapping[Cell, pd.DataFrame], bootstrap: Mapping[str, Any]) -> None:
        """
        Args:
            found: sums by problem.
            bootstrap: `replicates`, `confidence` and `seed`.

        Raises:
            ConfigError: fewer than two problems.
        """
        problems = sorted({str(problem) for frame in found.values() for problem in frame["problem"]})
        self.prompts = len(problems)
        self.drawn = PromptBootstrap(self.prompts, **bootstrap)
        self._sums: dict[Cell, dict[str, np.ndarray]] = {}
        for cell, frame in found.items():
            whole = frame.set_index("problem").reindex(problems).fillna(0)
            self._sums[cell] = {name: np.asarray(whole[name], dtype=np.float64) for name in SUMMED}

    def __contains__(self, cell: Cell) -> bool:
        return cell in self._sums

    @property
    def cells(self) -> list[Cell]:
        """What was measured, rising."""
        return sorted(self._sums)

    def ratio(self, cell: Cell, over: str, under: str) -> np.ndarray:
        """Ratio of two sums over the drawn problems, [1 + replicates]."""
        sums = self._sums[cell]
        return self.drawn.total(sums[over]) / self.drawn.total(sums[under])

    def nll(self, cell: Cell) -> np.ndarray:
        """N, [1 + replicates]."""
        return self.ratio(cell, "nll", "tokens")

    def count(self, cell: Cell, name: str) -> int:
        """Sum over all problems."""
        return int(self._sums[cell][name].sum())


Place = Mapping[str, Any]
"""run, text and seed of a measurement."""


def transfer_rows(measured: StepMeasurement, place: Place, updates: Mapping[str, int]) -> Iterator[StepTransfer]:
    """One row per SSAE and stage that wrote steps."""
    for cell in measured.cells:
        own = Cell(REAL, cell.stage, cell.stage)
        excess = measured.drawn.estimate(measured.nll(cell) - measured.nll(own)) if own in measured else None
        mean_code = measured.ratio(cell, "nll_mean_code", "tokens")
        yield StepTransfer(
            **place, chain=cell.chain, ssae_stage=cell.ssae_stage, stage=cell.stage, update=updates[cell.stage],
            prompts=measured.prompts, steps=measured.count(cell, "steps"), tokens=measured.count(cell, "tokens"),
            nll=measured.drawn.estimate(measured.nll(cell)), nll_mean_code=measured.drawn.estimate(mean_code),
            code_gain=measured.drawn.estimate(mean_code - measured.nll(cell)),
            l1=measured.drawn.estimate(measured.ratio(cell, "l1", "steps")),
            l0=measured.drawn.estimate(measured.ratio(cell, "active", "steps")), excess=excess,
        )  # fmt: skip


def decomposition_rows(measured: StepMeasurement, place: Place, stages: Sequence[tuple[str, int]]) -> Iterator[StepDecomposition]:
    """One row per stage behind base whose steps were measured with the SSAE of base."""
    root = Cell(REAL, BASE, BASE)
    for stage, update in stages[1:]:
        frozen, own, null = Cell(REAL, BASE, stage), Cell(REAL, stage, stage), Cell(NULL, stage, BASE)
        if root not in measured or frozen not in measured:
            continue
        at = measured.nll
        refit = at(own) - at(frozen) if own in measured else None
        null_refit = at(null) - at(root) if null in measured else None
        adaptation = None if refit is None or null_refit is None else refit - null_refit
        delta = None if refit is None else at(own) - at(root)
        terms = {"delta": delta, "shift": at(frozen) - at(root), "refit": refit, "null_refit": null_refit, "adaptation": adaptation}
        estimates: dict[str, Estimate | None] = {
            name: None if value is None else measured.drawn.estimate(value) for name, value in terms.items()
        }
        place_and_time = {**place, "stage": stage, "update": update, "prompts": measured.prompts}
        yield StepDecomposition(**place_and_time, **estimates)  # type: ignore[arg-type]  # of several types
