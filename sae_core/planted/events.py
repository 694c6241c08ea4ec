"""What can happen to planted directions between stages: each event is a label, and what it does is known exactly.

Stages count from 0, the base. An event that repeats does so at every stage from 1 on; one that happens once has the stage `at`.
"""

from abc import ABC
from dataclasses import dataclass
from typing import final


@dataclass(frozen=True, kw_only=True)
class Event(ABC):
    """Something that happens to a number of directions; every direction has one event at most, the others stay as they are."""

    directions: int
    """Directions it happens to."""

    @property
    def label(self) -> str:
        """Name of the event in tables of truth."""
        return type(self).__name__.lower()

    def __post_init__(self) -> None:
        if self.directions < 1:
            raise ValueError(
                f"directions of {self.label} must be at least 1; got {self.directions}. Raise it or leave the event out."
            )


@final
@dataclass(frozen=True, kw_only=True)
class Rotate(Event):
    """The direction turns in a plane of its own."""

    angle: float
    """Radians per stage."""


@final
@dataclass(frozen=True, kw_only=True)
class Magnitude(Event):
    """Activations grow or shrink where the direction is active."""

    factor: float
    """Per stage."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _above_zero(self, self.factor)


@final
@dataclass(frozen=True, kw_only=True)
class Rate(Event):
    """The direction is active on more or on fewer rows."""

    factor: float
    """Per stage; rows on which it was active already are the first to stay so."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _above_zero(self, self.factor)


@final
@dataclass(frozen=True, kw_only=True)
class Born(Event):
    """The direction is never active before a stage."""

    at: int
    """First stage at which it is active."""


@final
@dataclass(frozen=True, kw_only=True)
class Died(Event):
    """The direction is never active from a stage on."""

    at: int
    """First stage at which it is not active."""


@final
@dataclass(frozen=True, kw_only=True)
class Split(Event):
    """From a stage on, each active row has one of two directions, evenly, at an angle to either side of the one before."""

    at: int
    """First stage with two."""
    angle: float
    """Radians between the one and each of the two."""


@final
@dataclass(frozen=True, kw_only=True)
class Merge(Event):
    """Two directions, one or the other on each active row, become the one between them at a stage."""

    at: int
    """First stage with one."""
    angle: float
    """Radians between the one and each of the two."""


@final
@dataclass(frozen=True, kw_only=True)
class Redraw(Event):
    """Noise only: prompts, rows and activations are drawn afresh at every stage, from the same distribution."""


def _above_zero(event: Event, factor: float) -> None:
    if not factor > 0:
        raise ValueError(f"factor of {event.label} must be above 0; got {factor}. Use Died for a direction that vanishes.")
