"""The worlds that the validation runs: families that differ in what is planted, each with many seeds."""

from dataclasses import replace
from typing import NamedTuple

from sae_core.config.sae import TopKConfig
from sae_core.config.training import TrainingConfig
from sae_core.planted.chains import ChainSettings
from sae_core.planted.config import WorldConfig
from sae_core.planted.events import Born, Died, Event, Magnitude, Merge, Rate, Redraw, Rotate, Split

SETTINGS = ChainSettings(
    sae=TopKConfig(d_model=32, d_sae=64, k=4),
    training=TrainingConfig(lr=3e-3, updates=450, updates_per_epoch=75, batch=256, aux_coef=0.0, resample_epochs=3, dead_rate=1e-3),
    hop_updates=150,
)
"""Small enough for seconds, and not trained to the end: re-fit goes on along a chain, as it does on real activations."""

ROOMY = replace(
    SETTINGS,
    sae=TopKConfig(d_model=32, d_sae=128, k=4),
    training=replace(SETTINGS.training, updates=600, updates_per_epoch=150, aux_coef=1 / 32, aux_k=32, resample_epochs=0),
    hop_updates=300,
)
"""With latents to spare, which the auxiliary loss can wake: births need somewhere to happen."""
RESTLESS = replace(
    ROOMY,
    training=replace(ROOMY.training, aux_coef=0.0, resample_epochs=1, dead_rate=5e-3, keep_epoch="last", updates_per_epoch=100),
)
"""With latents to spare, which are re-initialised when they are dead, in hops too."""

ONE_HOP = WorldConfig(hops=1)


class Design(NamedTuple):
    """A family of worlds that differ in their seed alone."""

    name: str
    world: WorldConfig
    worlds: int
    planted: float
    """Size of what is planted, in the unit of its event; 0: no drift."""
    runs: int = 1
    """RL runs per world."""
    seeds: int = 3
    """SAE seeds per world."""
    settings: ChainSettings = SETTINGS
    coverage: bool = False
    """Measure how often intervals hold the truth, with one SAE seed, instead of claims."""


NO_DRIFT = {
    "noise": ONE_HOP,
    "redrawn": replace(ONE_HOP, events=(Redraw(directions=12),)),
    "unpaired": replace(ONE_HOP, paired=False),
}
"""Worlds in which nothing drifts: noise alone; a quarter of directions on other rows at each stage; other text at each stage."""

ANGLES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4)
HEAVY: tuple[Event, ...] = (
    Rotate(directions=6, angle=0.25),
    Born(directions=4, at=2),
    Died(directions=3, at=2),
    Rate(directions=4, factor=1.5),
)
SINGLE: dict[str, tuple[WorldConfig, float]] = {
    "magnitude": (replace(ONE_HOP, events=(Magnitude(directions=6, factor=1.5),)), 1.5),
    "rate": (replace(ONE_HOP, events=(Rate(directions=6, factor=2.0),)), 2.0),
    "born": (replace(ONE_HOP, events=(Born(directions=6, at=1),)), 6.0),
    "died": (replace(ONE_HOP, events=(Died(directions=6, at=1),)), 6.0),
    "split": (replace(ONE_HOP, events=(Split(directions=6, at=1, angle=0.5),)), 0.5),
    "merge": (replace(ONE_HOP, events=(Merge(directions=6, at=1, angle=0.5),)), 0.5),
    "mean shift": (replace(ONE_HOP, mean_shift=0.5), 0.5),
    "rotation with sinks": (replace(ONE_HOP, events=(Rotate(directions=6, angle=0.4),), sink_every=60), 0.4),
    "hidden": (replace(ONE_HOP, hidden_dims=8, hidden_angle=0.5), 0.5),
}


BIRTHS = replace(ONE_HOP, events=(Born(directions=6, at=1), Died(directions=6, at=1)))


def designs(worlds: int) -> list[Design]:
    """All families.

    Args:
        worlds: without drift, in all; the other families follow in proportion, at 200 they have 15 worlds per angle and 10 else.
    """
    each, per_angle, per_kind = -(-worlds // len(NO_DRIFT)), max(2, worlds * 15 // 200), max(2, worlds // 20)
    found = [Design(f"no drift: {name}", world, each, 0.0, runs=2) for name, world in NO_DRIFT.items()]
    for angle in ANGLES:
        world = replace(ONE_HOP, events=(Rotate(directions=6, angle=angle),))
        found.append(Design(f"rotation {angle:g}", world, per_angle, angle))
    found += [Design(name, world, per_kind, size) for name, (world, size) in SINGLE.items()]
    found.append(Design("births and deaths", BIRTHS, per_kind, 6.0, settings=ROOMY))
    found.append(Design("no drift: re-initialised", ONE_HOP, per_kind, 0.0, settings=RESTLESS))
    found.append(Design("heavy", WorldConfig(events=HEAVY), max(2, worlds // 40), 1.0, runs=2))
    intervals = NO_DRIFT | {"rotation": replace(ONE_HOP, events=(Rotate(directions=6, angle=0.2),))}
    return found + [
        Design(f"coverage: {name}", world, per_kind, float(name == "rotation"), seeds=1, coverage=True)
        for name, world in intervals.items()
    ]
