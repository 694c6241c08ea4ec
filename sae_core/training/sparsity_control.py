"""Finding the weight of the L1 penalty that brings the L1 norm of codes to a target.

Codes of step-level SAEs have Euclidean length 1, so their L1 norm lies between 1 (one latent) and √d_code (all alike): the
target is one of the ratio L1/L2, not of a number of latents.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, final


@dataclass(frozen=True)
class SparsityTarget:
    """What the weight is steered by."""

    target: float
    """L1 norm of a code wanted, the mean over steps."""
    start: float = 1e-4
    """Weight of the first update."""
    low: float = 1e-6
    high: float = 0.1
    """Bounds of the weight."""

    def __post_init__(self) -> None:
        if not (self.target >= 1 and 0 < self.low <= self.start <= self.high):
            raise ValueError(
                "A sparsity target must be at least 1 and its weights 0 < low ≤ start ≤ high; "
                f"got {', '.join(f'{name} {value:g}' for name, value in asdict(self).items())}. Correct them."
            )

    def within(self, weight: float) -> float:
        """The weight, inside its bounds."""
        return min(max(weight, self.low), self.high)


class SparsityControl(ABC):
    """Gives the weight of the penalty and learns from what it led to."""

    def __init__(self, aim: SparsityTarget) -> None:
        self.aim = aim
        self.weight = aim.start

    @abstractmethod
    def observe(self, l1: float) -> None:
        """Take the mean L1 norm of the codes that were just made with `weight`."""

    def state(self) -> dict[str, Any]:
        """Plain numbers from which `resume` goes on to the bit."""
        return {name: value for name, value in vars(self).items() if name not in ("aim", "settings")}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        vars(self).update(state)


@final
class StepwiseControl(SparsityControl):
    """The published controller: after every `every` observations one step of 1 %, up where their mean lies above the target.

    Source: Miaow-Lab/SSAE ("DWA"). From 1e-4 it needs 69 500 observations to reach 0.1.
    """

    def __init__(self, aim: SparsityTarget, *, every: int = 100, factor: float = 0.01) -> None:
        super().__init__(aim)
        self.settings = every, factor
        self.total, self.count = 0.0, 0

    def observe(self, l1: float) -> None:
        every, factor = self.settings
        self.total, self.count = self.total + l1, self.count + 1
        if self.count == every:
            up = self.total / self.count > self.aim.target
            self.weight = self.aim.within(self.weight * (1 + factor if up else 1 - factor))
            self.total, self.count = 0.0, 0


@final
class PredictiveControl(SparsityControl):
    """Moves the logarithm of the weight by the relative error that is to be expected some updates ahead.

    With e = log(smoothed L1 / target) and its change per update ė: Δ log w = gain · (e + lookahead · ė), at most `most`. The second
    term, which makes it a proportional-integral controller of log w, takes the penalty back while L1 still falls: without it the
    slow answer of the codes to the weight leads to swinging.
    """

    def __init__(
        self, aim: SparsityTarget, *, gain: float = 0.15, lookahead: float = 30.0, smoothing: float = 0.8, most: float = 0.2
    ) -> None:
        super().__init__(aim)
        self.settings = gain, lookahead, smoothing, most
        self.error: float | None = None

    def observe(self, l1: float) -> None:
        gain, lookahead, smoothing, most = self.settings
        now = math.log(max(l1, 1e-6) / self.aim.target)
        before = now if self.error is None else self.error
        self.error = smoothing * before + (1 - smoothing) * now
        change = gain * (self.error + lookahead * (self.error - before))
        self.weight = self.aim.within(self.weight * math.exp(min(max(change, -most), most)))
