from typing import Any

import numpy as np
import pytest
import torch

from sae_core.config.sae import TopKConfig
from sae_core.models.build import build
from sae_core.planted.chains import kept_rows
from sae_core.planted.config import WorldConfig
from sae_core.planted.events import Born, Died, Event, Magnitude, Merge, Rate, Redraw, Rotate, Split
from sae_core.planted.measuring import sums_of
from sae_core.planted.recovery import recovery
from sae_core.planted.world import PlantedWorld

WIDE: dict[str, Any] = {"d_model": 40, "directions": 12, "noise": 0.0, "prompts": 50, "active": 2.0}
"""Fewer directions than dimensions and no noise: what is active can be read off the rows."""


def wide(*events: Event, **changes: Any) -> PlantedWorld:
    return PlantedWorld(WorldConfig(events=events, **WIDE | changes))


def labelled(world: PlantedWorld, label: str) -> list[int]:
    return [place for place, found in enumerate(world.dictionary.labels) if found == label]


def codes(world: PlantedWorld, stage: int, part: str = "heldout", half: int | None = None) -> np.ndarray:
    """[row, direction], or [row, direction, half] where every direction is taken for two."""
    vectors = world.dictionary.stages[stage].vectors
    rows = world.rows(part, stage).x.double().numpy() - world.config.offset
    if half is None:
        return rows @ np.linalg.pinv(vectors[:, 0])
    return (rows @ np.linalg.pinv(vectors.reshape(-1, world.config.d_model))).reshape(len(rows), -1, 2)


def test_a_world_is_its_configuration() -> None:
    config = WorldConfig(events=(Rotate(directions=3, angle=0.2), Redraw(directions=2)), sink_every=50)
    first, second = PlantedWorld(config), PlantedWorld(config)
    for stage in range(first.stages):
        assert torch.equal(first.rows("heldout", stage).x, second.rows("heldout", stage).x)
    other = PlantedWorld(WorldConfig(seed=1, events=config.events, sink_every=50))
    assert not torch.equal(first.rows("heldout", 0).x, other.rows("heldout", 0).x)
    assert not torch.equal(first.rows("heldout", 0).x, first.rows("hop_0", 0).x)


def test_where_nothing_happens_stages_differ_in_noise_alone() -> None:
    quiet = wide()
    assert torch.equal(quiet.rows("heldout", 0).x, quiet.rows("heldout", 2).x)
    noisy = wide(noise=0.1)
    difference = noisy.rows("heldout", 2).x - noisy.rows("heldout", 0).x
    assert float(difference.std()) == pytest.approx(0.1 * 2**0.5, rel=0.02)
    assert abs(float(difference.mean())) < 3 * 0.1 * 2**0.5 / difference.numel() ** 0.5


def test_rows_are_sparse_sums_with_rates_that_fall_with_rank() -> None:
    world = wide(clustering=None, prompts=400)
    rates = world.dictionary.stages[0].rates
    assert rates.sum() == pytest.approx(2)
    assert np.sort(rates)[::-1][:3] / rates.max() == pytest.approx([1, 2**-0.6, 3**-0.6])
    found = codes(world, 0)
    assert (found > 0.5).mean(0) == pytest.approx(rates, abs=0.03)
    active = found[found > 0.5]
    assert active.min() > 1 - 1e-4
    assert active.max() < 2 + 1e-4
    assert np.abs(found[found <= 0.5]).max() < 1e-4


def test_prompts_differ_in_what_they_activate_only_where_activity_is_clustered() -> None:
    def spread(clustering: float | None) -> float:
        """Variance of a prompt's count over that of independent rows, averaged over directions."""
        world = wide(prompts=400, clustering=clustering)
        counts = (codes(world, 0) > 0.5).reshape(400, world.config.rows_per_prompt, -1).sum(1)
        share = counts.mean(0) / world.config.rows_per_prompt
        return float((counts.var(0) / (world.config.rows_per_prompt * share * (1 - share))).mean())

    assert spread(None) == pytest.approx(1, abs=0.1)
    assert spread(0.7) > 2.5


def test_a_direction_turns_by_the_planted_angle_in_one_plane_and_others_stay() -> None:
    world = wide(Rotate(directions=4, angle=0.3))
    turning, base = labelled(world, "rotate"), world.dictionary.stages[0].vectors[:, 0]
    assert len(turning) == 4
    for stage in range(world.stages):
        now = world.dictionary.stages[stage].vectors[:, 0]
        cosines = (now * base).sum(1)
        assert cosines[turning] == pytest.approx(np.cos(0.3 * stage))
        assert np.delete(cosines, turning, 0) == pytest.approx(1)
        assert np.linalg.norm(now, axis=1) == pytest.approx(1)
        np.testing.assert_allclose(codes(world, stage), codes(world, 0), atol=1e-4)


def test_magnitude_scales_activations_and_rate_adds_rows_to_those_active_before() -> None:
    world = wide(Magnitude(directions=3, factor=1.5), Rate(directions=3, factor=1.4), prompts=200)
    base, later = codes(world, 0), codes(world, 2)
    stronger, oftener = labelled(world, "magnitude"), labelled(world, "rate")
    np.testing.assert_allclose(later[:, stronger], 1.5**2 * base[:, stronger], atol=1e-4)
    before, after = base[:, oftener] > 0.5, later[:, oftener] > 0.5
    assert not (before & ~after).any()
    assert after.mean() > 1.3 * before.mean()
    still = labelled(world, "stay")
    np.testing.assert_allclose(later[:, still], base[:, still], atol=1e-4)


def test_directions_are_born_and_die_at_their_stage() -> None:
    world = wide(Born(directions=2, at=2), Died(directions=3, at=1))
    born, died = labelled(world, "born"), labelled(world, "died")
    alive = np.array([(codes(world, stage) > 0.5).any(0) for stage in range(world.stages)])
    assert alive[:, born].tolist() == [[False] * 2, [False] * 2, [True] * 2, [True] * 2]
    assert alive[:, died].tolist() == [[True] * 3, *[[False] * 3] * 3]
    assert np.array_equal(alive, [stage.alive for stage in world.dictionary.stages])


@pytest.mark.parametrize(
    ("event", "double"), [(Split(directions=2, at=2, angle=0.6), (2, 3)), (Merge(directions=2, at=2, angle=0.6), (0, 1))]
)
def test_a_direction_that_splits_or_merges_is_two_on_one_side_of_its_stage(event: Event, double: tuple[int, ...]) -> None:
    world = wide(event, directions=8, prompts=200)
    (first, second), one = labelled(world, event.label), 3 - double[0]
    whole = world.dictionary.stages[one].vectors
    for stage in range(world.stages):
        truth = world.dictionary.stages[stage]
        assert truth.double.nonzero()[0].tolist() == ([first, second] if stage in double else [])
    two = world.dictionary.stages[double[0]].vectors
    assert (two[first] @ whole[first, 0]) == pytest.approx([np.cos(0.6)] * 2)
    assert two[first, 0] @ two[first, 1] == pytest.approx(np.cos(1.2))
    halves = codes(world, double[0], half=2)[:, first] > 0.5
    assert not halves.all(1).any(), "a row has one of the two"
    assert np.array_equal(halves.any(1), codes(world, one)[:, first] > 0.5)
    assert halves.sum(0)[0] / halves.sum() == pytest.approx(0.5, abs=0.1)


def test_the_offset_moves_along_one_line() -> None:
    world = wide(mean_shift=0.7)
    for stage in range(world.stages):
        moved = world.rows("heldout", stage).x - world.rows("heldout", 0).x
        torch.testing.assert_close(
            moved, 0.7 * stage * torch.from_numpy(world.dictionary.shift).float().expand_as(moved), atol=1e-5, rtol=0
        )


def test_sinks_are_the_same_rows_at_every_stage_and_their_norm_gives_them_away() -> None:
    world = PlantedWorld(WorldConfig(sink_every=40, sink_multiple=100.0, prompts=100, events=(Rotate(directions=9, angle=0.4),)))
    stages = [world.rows("heldout", stage) for stage in range(world.stages)]
    assert float(stages[0].sink.float().mean()) == pytest.approx(1 / 40, abs=0.01)
    for rows in stages:
        assert torch.equal(rows.sink, stages[0].sink)
        assert torch.equal(kept_rows(rows.x), ~rows.sink)
        norms = rows.x.norm(dim=1)
        assert float(norms[rows.sink].mean() / norms[~rows.sink].median()) == pytest.approx(100, rel=0.2)


def test_hidden_drift_leaves_every_error_of_a_visible_dictionary_as_it_is() -> None:
    world = wide(hidden_dims=8, hidden_size=0.3, hidden_angle=0.5, offset=0.0)
    assert np.abs(world.dictionary.stages[0].vectors @ world.dictionary.hidden.T).max() < 1e-9
    vectors, zeros = torch.from_numpy(world.dictionary.stages[0].vectors[:, 0]).float(), torch.zeros(40)
    tensors = {
        "W_enc": vectors,
        "W_dec": vectors,
        "b_enc": torch.zeros(12),
        "b_dec": zeros,
        "b_pre": zeros,
        "scale": torch.ones(()),
    }
    sae = build(TopKConfig(d_model=40, d_sae=12, k=4), tensors)
    base, later = (world.rows("heldout", stage) for stage in (0, 2))
    assert float((later.x - base.x).norm(dim=1).mean()) > 0.3, "rows do move"
    errors = [sums_of(sae, rows.x, rows.prompt, 50, zeros).sse for rows in (base, later)]
    torch.testing.assert_close(errors[0], errors[1], rtol=1e-5, atol=1e-5)


def test_unpaired_stages_read_other_text_of_the_same_kind() -> None:
    world = wide(paired=False, prompts=300)
    first, second = codes(world, 0) > 0.5, codes(world, 1) > 0.5
    both = (first & second).mean()
    assert both < 0.6 * first.mean()
    assert second.mean() == pytest.approx(first.mean(), rel=0.1)


def test_redrawing_changes_which_rows_are_active_but_not_how_many() -> None:
    world = wide(Redraw(directions=4), prompts=400, clustering=None)
    base, later = codes(world, 0) > 0.5, codes(world, 1) > 0.5
    redrawn, still = labelled(world, "redraw"), labelled(world, "stay")
    assert np.array_equal(base[:, still], later[:, still])
    for direction in redrawn:
        assert (base[:, direction] & later[:, direction]).mean() == pytest.approx(base[:, direction].mean() ** 2, abs=0.02)
        assert later[:, direction].mean() == pytest.approx(base[:, direction].mean(), abs=0.03)


def test_runs_of_one_seed_share_base_and_what_happens_to_which_direction() -> None:
    events = (Rotate(directions=3, angle=0.3), Died(directions=2, at=1))
    first, second = (PlantedWorld(WorldConfig(run=run, events=events, noise=0.1)) for run in (0, 1))
    assert first.dictionary.labels == second.dictionary.labels
    assert torch.equal(first.rows("heldout", 0).x, second.rows("heldout", 0).x)
    assert not torch.equal(first.rows("heldout", 1).x, second.rows("heldout", 1).x)
    turned = [world.dictionary.stages[1].vectors[labelled(world, "rotate")[0], 0] for world in (first, second)]
    assert turned[0] @ turned[1] < 0.999


def test_the_kl_proxy_is_that_of_gaussian_channels() -> None:
    assert wide(mean_shift=0.7, kl_noise=2.0).kl == pytest.approx(
        [(0.7 * stage) ** 2 / 8 for stage in range(4)], rel=1e-4, abs=1e-12
    )
    turning = wide(Rotate(directions=4, angle=0.2)).kl
    assert turning[0] == 0
    assert turning == sorted(turning)
    assert wide(Redraw(directions=4), noise=0.3).kl == [0] * 4, "noise is no drift"


def test_recovery_names_the_direction_that_each_latent_stands_for() -> None:
    world = wide(Born(directions=2, at=2))
    truth = world.dictionary.stages
    latents = torch.cat(
        [torch.from_numpy(truth[0].vectors[:, 0]), torch.randn(1, 40, generator=torch.Generator().manual_seed(0)).double()]
    )
    found = recovery(3 * latents, truth[3])
    assert found.direction.tolist() == [*range(12), -1]
    assert found.recovered.all()
    before = recovery(latents, truth[0])
    born = labelled(world, "born")
    assert (before.direction[born] == -1).all(), "an unborn direction has no latent"
    assert before.recovered.tolist() == truth[0].alive.tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"events": (Rotate(directions=30, angle=0.1), Died(directions=20, at=1))},
            "more than all directions = 48; they are planned for 50",
        ),
        ({"events": (Born(directions=1, at=4),)}, "1 to hops = 3; got 4"),
        ({"hidden_dims": 3}, "hidden_dims must be even"),
        ({"sink_every": 1}, "sink_every must be 0, or at least 2"),
        ({"clustering": 0.0}, "clustering must be above 0"),
        ({"prompts": 0}, "prompts must be above 0"),
    ],
)
def test_worlds_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WorldConfig(**changes)


def test_events_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="directions of rotate must be at least 1"):
        Rotate(directions=0, angle=0.1)
    with pytest.raises(ValueError, match=r"factor of rate must be above 0; got 0\.0"):
        Rate(directions=1, factor=0.0)
