"""The planted directions at every stage: what is known of a world before any row is drawn."""

from typing import NamedTuple

import numpy as np

from sae_core.planted.config import WorldConfig
from sae_core.planted.events import Born, Died, Event, Magnitude, Merge, Rate, Rotate, Split

STAY = "stay"
"""Label of a direction without an event."""


def stream(config: WorldConfig, *names: object) -> np.random.Generator:
    """A random stream of its own for each combination of names."""
    return np.random.default_rng([config.seed, *"/".join(map(str, names)).encode()])


class StageTruth(NamedTuple):
    """The planted directions at one stage."""

    vectors: np.ndarray
    """[direction, half, d_model], unit vectors; both halves are equal except where a direction is two."""
    rates: np.ndarray
    """[direction]: share of rows on which it is active, on a prompt of multiplier 1; 0 where unborn or dead."""
    magnitudes: np.ndarray
    """[direction]: what activations are multiplied by."""

    @property
    def alive(self) -> np.ndarray:
        """[direction]: whether it is ever active."""
        return self.rates > 0

    @property
    def double(self) -> np.ndarray:
        """[direction]: whether it is two."""
        return (self.vectors[:, 0] != self.vectors[:, 1]).any(-1)


class Dictionary(NamedTuple):
    """All that is planted."""

    events: list[Event | None]
    """What happens to each direction."""
    stages: list[StageTruth]
    """Base first."""
    hidden: np.ndarray
    """[hidden_dims, d_model], orthonormal: no planted direction has a part in them."""
    shift: np.ndarray
    """[d_model]: unit vector along which the offset moves."""
    sink: np.ndarray
    """[d_model]: unit vector of the sinks."""

    @property
    def labels(self) -> list[str]:
        """What happens to each direction, in a word."""
        return [STAY if event is None else event.label for event in self.events]


def plant(config: WorldConfig) -> Dictionary:
    """The dictionary of a world."""
    draw = stream(config, "dictionary")
    basis, _ = np.linalg.qr(draw.standard_normal((config.d_model, config.d_model)))
    visible = basis[:, config.hidden_dims :].T
    directions, shift, sink = np.split(_unit(draw.standard_normal((config.directions + 2, len(visible))) @ visible), [-2, -1])
    ranks = draw.permutation(config.directions) + 1.0
    rates = ranks**-config.rate_exponent
    rates *= config.active / rates.sum()
    events = _assigned(config)
    own = stream(config, "turns", config.run)
    turns = own.standard_normal((config.directions, len(visible))) @ visible
    turns = _unit(turns - (turns * directions).sum(1, keepdims=True) * directions)
    stages = [_stage(stage, directions, turns, rates, events) for stage in range(config.hops + 1)]
    return Dictionary(events, stages, basis[:, : config.hidden_dims].T, shift[0], sink[0])


def _assigned(config: WorldConfig) -> list[Event | None]:
    happening: list[Event | None] = [event for event in config.events for _ in range(event.directions)]
    happening += [None] * (config.directions - len(happening))
    order = stream(config, "events").permutation(config.directions)
    return [happening[place] for place in order]


def _stage(stage: int, directions: np.ndarray, turns: np.ndarray, rates: np.ndarray, events: list[Event | None]) -> StageTruth:
    angles = np.zeros((len(directions), 2))
    rates, magnitudes = rates.copy(), np.ones(len(directions))
    for place, event in enumerate(events):
        match event:
            case Rotate(angle=angle):
                angles[place] = angle * stage
            case Magnitude(factor=factor):
                magnitudes[place] = factor**stage
            case Rate(factor=factor):
                rates[place] *= factor**stage
            case Born(at=at) if stage < at:
                rates[place] = 0
            case Died(at=at) if stage >= at:
                rates[place] = 0
            case Split(at=at, angle=angle) if stage >= at:
                angles[place] = angle, -angle
            case Merge(at=at, angle=angle) if stage < at:
                angles[place] = angle, -angle
    cosine, sine = np.cos(angles)[..., None], np.sin(angles)[..., None]
    return StageTruth(cosine * directions[:, None] + sine * turns[:, None], rates, magnitudes)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
