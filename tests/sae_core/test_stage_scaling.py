"""Classes of a crosscoder's latents: planted births and deaths are found, artefacts made by hand are told, stillness is still."""

import functools

import numpy as np
import pytest
import torch
from torch import Tensor

from sae_core.config.crosscoder import CrosscoderConfig
from sae_core.config.training import TrainingConfig
from sae_core.metrics.stage_scaling import (
    CLASSES,
    Limits,
    StageSums,
    classes,
    decoders_of,
    presence,
    stage_sums,
)
from sae_core.models.build import build
from sae_core.models.crosscoder import Crosscoder, initial_crosscoder
from sae_core.planted.config import WorldConfig
from sae_core.planted.events import Born, Died, Event, Rotate
from sae_core.planted.recovery import recovery
from sae_core.planted.world import PlantedWorld
from sae_core.training.in_memory import batches_of, quality_on
from sae_core.training.trainer import Trainer

LIMITS = Limits(exclusive=0.1, cosine=0.8, in_error=0.2, in_reconstruction=0.5)
DRIFT = (Born(directions=5, at=1), Died(directions=5, at=1), Rotate(directions=5, angle=0.9))
MIN_FIRINGS = 20
LATENTS = 96


@functools.cache
def planted(events: tuple[Event, ...], updates: int = 900) -> tuple[PlantedWorld, Crosscoder]:
    """A world of two stages and a crosscoder trained on 4000 of its joint rows."""
    world = PlantedWorld(WorldConfig(hops=1, events=events))
    rows, held_out = joint(world, "train"), joint(world, "validation")
    config = CrosscoderConfig(d_model=64, stages=2, d_sae=LATENTS, k=4)
    training = TrainingConfig(
        lr=6e-3,
        updates=updates,
        updates_per_epoch=150,
        batch=128,
        unit_decoder=False,
        aux_k=16,
        threshold_rate=0.1,
        keep_epoch="last",
    )
    trainer = Trainer(initial_crosscoder(config, rows, seed=0), training)
    trained = trainer.run(batches_of(rows, training.batch, seed=0), quality_on(held_out))
    assert trainer.history[-1].nmse < 0.15
    return world, build(config, trained.tensors)  # type: ignore[return-value]  # of this configuration


def joint(world: PlantedWorld, part: str) -> Tensor:
    return torch.cat([world.rows(part, stage).x for stage in range(world.stages)], 1)


def sums_of(world: PlantedWorld, crosscoder: Crosscoder) -> StageSums:
    rows = world.rows("heldout", 0)
    return stage_sums(crosscoder, joint(world, "heldout"), rows.prompt, world.config.prompts, 1)


def found_classes(world: PlantedWorld, crosscoder: Crosscoder) -> dict[str, np.ndarray]:
    """Alive latents of each class."""
    totals, decoders = sums_of(world, crosscoder).totals(), decoders_of(crosscoder, 1)
    alive = totals.firings >= MIN_FIRINGS
    named = classes(decoders, presence(totals, decoders), LIMITS)
    return {name: (which & alive).nonzero().squeeze(1).numpy() for name, which in named.items()}


@pytest.mark.parametrize(("found", "label", "stage"), [("new_confirmed", "born", 1), ("gone_confirmed", "died", 0)])
def test_planted_births_and_deaths_are_found(found: str, label: str, stage: int) -> None:
    """Ten of 48 directions are of one stage: by chance, a tenth of such latents would be right."""
    world, crosscoder = planted(DRIFT)
    labels = np.array(world.dictionary.labels)
    latents = found_classes(world, crosscoder)[found]
    decoders = decoders_of(crosscoder, 1)
    stands_for = recovery(decoders.later if stage else decoders.first, world.dictionary.stages[stage]).direction[latents]
    right = [place for place in stands_for if place >= 0 and labels[place] == label]
    assert len(right) >= 0.9 * len(latents), "precision"
    assert len(set(right)) >= 0.8 * (labels == label).sum(), "recall"


def test_planted_rotations_are_rotations() -> None:
    world, crosscoder = planted(DRIFT)
    latents = found_classes(world, crosscoder)["rotated"]
    stands_for = recovery(decoders_of(crosscoder, 1).first, world.dictionary.stages[0]).direction[latents]
    labels = [world.dictionary.labels[place] for place in stands_for if place >= 0]
    assert labels.count("rotate") >= 4
    assert labels.count("rotate") >= 0.7 * len(labels)


def test_without_drift_every_latent_is_shared() -> None:
    found = {name: len(latents) for name, latents in found_classes(*planted((), 450)).items()}
    assert found["shared"] >= 40
    assert sum(found[name] for name in ("new", "gone", "rotated")) <= 0.04 * found["shared"]


def test_the_first_four_classes_tell_every_latent_apart() -> None:
    world, crosscoder = planted(DRIFT)
    totals, decoders = sums_of(world, crosscoder).totals(), decoders_of(crosscoder, 1)
    named = classes(decoders, presence(totals, decoders), LIMITS)
    assert torch.equal(torch.stack([named[name] for name in CLASSES[:4]]).sum(0), torch.ones(LATENTS, dtype=torch.int64))
    one_stage, told = named["new"] | named["gone"], named["new_confirmed"] | named["gone_confirmed"]
    assert torch.equal(one_stage, told | named["shrunk"] | named["decoupled"])
    assert not (told & (named["shrunk"] | named["decoupled"])).any()


def by_hand(d_first: Tensor, d_later: Tensor, encoder: Tensor) -> Crosscoder:
    """A crosscoder of these rows, each [latent, width], without biases, with unit scale and a threshold of 0.

    The encoder reads the later stage alone.
    """
    latents, width = d_first.shape
    config = CrosscoderConfig(d_model=2 * width, stages=2, d_sae=latents, k=1, pre_bias="none")
    tensors = {
        "W_enc": torch.cat([torch.zeros_like(encoder), encoder], 1), "W_dec": torch.cat([d_first, d_later], 1),
        "b_enc": torch.zeros(latents), "b_dec": torch.zeros(2 * width), "scale": torch.ones(2 * width),
        "threshold": torch.zeros(()),
    }  # fmt: skip
    return Crosscoder(config, tensors)


def two_stages(in_first: float) -> Tensor:
    """Joint rows of width 4: direction 0 at the later stage, `in_first` of it at the first, and noise in the other three."""
    draw = torch.Generator().manual_seed(0)
    first, later = (0.1 * torch.randn(600, 4, generator=draw) for _ in range(2))
    size = 1 + torch.rand(600, generator=draw)
    first[:, 0], later[:, 0] = in_first * size, size
    return torch.cat([first, later], 1)


AXES = torch.eye(4)


@pytest.mark.parametrize(
    ("in_first", "helped", "in_error", "in_reconstruction", "kind"),
    [(0.0, False, 0.0, 0.0, "new_confirmed"), (1.0, False, 1.0, 0.0, "shrunk"), (0.5, False, 0.5, 0.0, "shrunk"),
     (1.0, True, 0.0, 1.0, "decoupled")],
    ids=["new", "shrunk", "half shrunk", "decoupled"],
)  # fmt: skip
def test_shrinkage_and_decoupling_are_what_they_are_by_construction(
    in_first: float, helped: bool, in_error: float, in_reconstruction: float, kind: str
) -> None:
    """Latent 0 has no decoder row at the first stage; `helped`: latent 1 carries the same direction there, and there alone."""
    nothing = torch.zeros(4)
    first = torch.stack([nothing, AXES[0] if helped else nothing])
    later = torch.stack([AXES[0], nothing])
    crosscoder = by_hand(first, later, torch.stack([AXES[0], AXES[0] if helped else AXES[1] * 1e-6]))
    sums = stage_sums(crosscoder, two_stages(in_first), torch.arange(600) % 20, 20, 1).totals()
    decoders = decoders_of(crosscoder, 1)
    found = presence(sums, decoders)
    assert float(found.in_error[0]) == pytest.approx(in_error, abs=1e-6)
    assert float(found.in_reconstruction[0]) == pytest.approx(in_reconstruction, abs=1e-6)
    named = classes(decoders, found, LIMITS)
    assert bool(named["new"][0])
    assert [name for name in CLASSES[4:] if named[name][0]] == [kind]


def test_sums_of_batches_and_weights_add_up() -> None:
    world, crosscoder = planted((), 450)
    x, prompt = joint(world, "heldout"), world.rows("heldout", 0).prompt
    whole = stage_sums(crosscoder, x, prompt, world.config.prompts, 1)
    parts = [stage_sums(crosscoder, x[some], prompt[some], world.config.prompts, 1) for some in (slice(0, 999), slice(999, None))]
    for one, both in zip(whole, parts[0] + parts[1], strict=True):
        torch.testing.assert_close(one, both, rtol=1e-4, atol=1e-4)
    doubled = whole.totals(torch.full((1, world.config.prompts), 2.0))
    torch.testing.assert_close(doubled.squares[0], 2 * whole.squares.sum(0))
    assert torch.equal(whole.firings.sum(0), crosscoder.encode_dense(x).ne(0).sum(0).double())
