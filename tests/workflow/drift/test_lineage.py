"""Lineage: planted events are found, by direction and activation together, and names do not matter."""

import numpy as np
import pytest
import torch

from sae_core.kernels.codes import Codes
from sae_core.metrics.coactivation import coactivation_sums, correlations
from workflow.drift.kinship import Candidates, kinship
from workflow.drift.lineage import EVENTS, Lineage, lineage, subtracted
from workflow.drift.matching import unit

D, ROWS = 40, 3000
PERSISTING, ROTATED, SPLIT, MERGED, DEAD, BORN, TWIN = (0, 1, 2), 3, 4, (5, 6), 7, 8, 9
LATENTS = 12


def sparse(f: np.ndarray) -> Codes:
    rows, latents = np.nonzero(f)
    offsets = torch.from_numpy(np.searchsorted(rows, np.arange(len(f) + 1)))
    return Codes(offsets, torch.from_numpy(latents), torch.from_numpy(f[rows, latents]).float())


class World:
    """Directions and activations before and now.

    4 splits into 4 and 10, each active on half of its rows; 5 and 6 merge into 5; 7 dies; 8 is born; 3 turns. 9 has a twin, 11,
    of nearly its direction that is active on other rows; 8 is active wherever 0 is, across its direction.
    """

    def __init__(self, seed: int = 0) -> None:
        draw = np.random.default_rng(seed)
        basis = np.linalg.qr(draw.normal(size=(D, D)))[0]
        self.base, self.now = basis[:LATENTS].copy(), unit(basis[:LATENTS] + 0.02 * draw.normal(size=(LATENTS, D)))
        self.now[ROTATED] = np.cos(0.6) * basis[ROTATED] + np.sin(0.6) * basis[20]
        self.now[SPLIT], self.now[10] = unit(basis[[4]] + 0.4 * basis[21])[0], unit(basis[[4]] - 0.4 * basis[21])[0]
        self.base[5], self.base[6] = unit(basis[[5]] + 0.4 * basis[22])[0], unit(basis[[5]] - 0.4 * basis[22])[0]
        self.now[5] = basis[5]
        self.base[10], self.base[8] = basis[30], basis[31]
        self.base[TWIN], self.base[11] = basis[9], basis[33]
        self.now[11] = unit(basis[[9]] + 0.3 * basis[32])[0]
        self.f = (0.5 + draw.random((ROWS, LATENTS))) * (draw.random((ROWS, LATENTS)) < 0.08)
        self.g = self.f * (1 + 0.1 * draw.random((ROWS, LATENTS)))
        half = draw.random(ROWS) < 0.5
        self.g[:, 10], self.g[:, 4] = self.g[:, 4] * half, self.g[:, 4] * ~half
        self.f[:, 6] *= self.f[:, 5] == 0
        self.g[:, 5] = self.f[:, 5] + self.f[:, 6]
        self.g[:, 8] = self.f[:, 0]
        self.g[:, 11] = self.g[:, 11] * (self.f[:, 9] == 0)
        self.f[:, [8, 10, 11]] = 0
        self.g[:, [6, 7]] = 0

    def lineage(self, order: np.ndarray | None = None, min_correlation: float = 0.4) -> Lineage:
        """Events with the later latents in another order; 8 is born and 7 died, as the conditions of births say."""
        order = np.arange(LATENTS) if order is None else order
        now, g = self.now[order], self.g[:, order]
        alive_before, alive_now = (self.f > 0).any(0), (g > 0).any(0)
        found = kinship(now, self.base, alive_now, alive_before, min_cosine=0.7, most=8).candidates
        pairs = torch.from_numpy(found.pairs)
        values = correlations(coactivation_sums(sparse(g), sparse(self.f), pairs, LATENTS, LATENTS), pairs).numpy()
        return lineage(
            found, values, usable_now=alive_now, usable_base=alive_before, born=order == BORN, died=np.arange(LATENTS) == DEAD,
            min_correlation=min_correlation, persist_cosine=0.9,
        )  # fmt: skip


def told(found: Lineage) -> dict[str, list[tuple[tuple[int, ...], tuple[int, ...]]]]:
    return {kind: [(one.parents, one.children) for one in found.events if one.event == kind] for kind in EVENTS}


def test_planted_events_are_found() -> None:
    found = World().lineage()
    assert told(found) == {
        "persist": [((i,), (i,)) for i in (*PERSISTING, TWIN)],
        "rotate": [((ROTATED,), (ROTATED,))],
        "split": [((SPLIT,), (SPLIT, 10))],
        "merge": [(MERGED, (5,))],
        "born": [((), (BORN,))],
        "die": [((DEAD,), ())],
    }
    assert found.unplaced_now.tolist() == [11]
    assert found.unplaced_base.tolist() == []
    assert found.counts() == {"persist": 4, "rotate": 1, "split": 1, "merge": 1, "born": 1, "die": 1}


def test_directions_alone_would_have_split_the_twin() -> None:
    world = World()
    assert world.now[11] @ world.base[TWIN] > 0.9
    assert ((TWIN,), (TWIN, 11)) in told(world.lineage(min_correlation=-1.0))["split"]


def test_names_do_not_matter() -> None:
    order = np.random.default_rng(4).permutation(LATENTS)
    renamed, plain = World().lineage(order), World().lineage()
    back = [(one.event, one.parents, tuple(sorted(order[list(one.children)].tolist()))) for one in renamed.events]
    assert sorted(back) == sorted((one.event, one.parents, one.children) for one in plain.events)
    assert order[renamed.unplaced_now].tolist() == [11]


def test_events_say_how_alike_their_latents_are() -> None:
    world = World()
    events = {one.event: one for one in world.lineage().events}
    assert events["rotate"].cosine == pytest.approx(np.cos(0.6), abs=1e-6)
    assert events["split"].cosine == pytest.approx(min(world.now[i] @ world.base[4] for i in (4, 10)))
    assert events["split"].correlation == pytest.approx(
        min(np.corrcoef(world.g[:, i], world.f[:, 4])[0, 1] for i in (4, 10)), abs=1e-5
    )
    assert np.isnan(events["born"].cosine)
    assert events["born"].row() == {"event": "born", "parents": "", "children": "8", "cosine": None, "correlation": None}
    assert events["split"].row()["children"] == "4 10"


def test_latents_left_out_are_in_no_event() -> None:
    world = World()
    usable = (world.f > 0).any(0)
    usable[[0, 4]] = False
    found = kinship(world.now, world.base, np.ones(LATENTS, bool), usable, min_cosine=0.7, most=8).candidates
    assert not {0, 4} & set(found.base.tolist())


def test_a_chain_of_choices_leaves_nobody_out() -> None:
    """1 is best with child 0, which is best with parent 0; child 1 has parent 1 alone: 1 splits and 0 merges."""
    found = Candidates(np.array([0, 0, 1]), np.array([0, 1, 1]), np.array([0.9, 0.8, 0.8]))
    every = np.ones(2, bool)
    told_of = told(
        lineage(
            found,
            np.array([0.9, 0.8, 0.5]),
            usable_now=every,
            usable_base=every,
            born=~every,
            died=~every,
            min_correlation=0.4,
            persist_cosine=0.9,
        )
    )
    assert told_of["split"] == [((1,), (0, 1))]
    assert told_of["merge"] == [((0, 1), (0,))]
    assert told_of["persist"] == told_of["rotate"] == []


def test_no_relatives_are_no_events() -> None:
    nobody = np.zeros(3, bool)
    none = Candidates(np.zeros(0, int), np.zeros(0, int), np.zeros(0))
    found = lineage(
        none, np.zeros(0), usable_now=~nobody, usable_base=nobody, born=nobody, died=nobody, min_correlation=0.4, persist_cosine=0.9
    )
    assert found.events == []
    assert found.unplaced_now.tolist() == [0, 1, 2]
    assert set(found.counts().values()) == {0}


def test_the_events_of_the_null_chain_are_subtracted() -> None:
    real, null = dict.fromkeys(EVENTS, 3), dict.fromkeys(EVENTS, 3) | {"born": 5, "split": 1}
    assert subtracted(real, null) == dict.fromkeys(EVENTS, 0) | {"born": -2, "split": 2}
