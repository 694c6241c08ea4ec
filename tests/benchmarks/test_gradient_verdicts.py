"""Wrong gradients are called wrong, those of public trainers injected into ours among them, and right ones right."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import sae_core.training.objectives as objectives
import sae_core.training.update as update
from benchmarks.contender import Contender, Precision
from benchmarks.naive import Naive
from benchmarks.ours import Ours
from benchmarks.peers import PEERS, peer
from benchmarks.shapes import Shape, Tensors, batches_of, start_of
from benchmarks.verdict import Verdict, judged, scenes
from sae_core.kernels.choice import choose_backend

CPU = torch.device("cpu")
SHAPE = Shape("small", 48, 20, 72, 5)
ROWS = batches_of(SHAPE, 1)[0]
START = start_of(SHAPE, ROWS)


def ours(precision: Precision = "fp32") -> Callable[[Tensors], Contender]:
    return lambda start: Ours(SHAPE, start, CPU, choose_backend("torch", CPU), precision)


def verdict(make: Callable[[Tensors], Contender]) -> Verdict:
    return judged(make, SHAPE, START, ROWS)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_our_gradients_are_right_in_every_scene(precision: Precision) -> None:
    assert verdict(ours(precision)).right


def test_gradients_of_dense_autograd_are_right() -> None:
    found = verdict(lambda start: Naive(SHAPE, start, CPU))
    assert found.right
    assert 0 < found.error < 1e-5


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_aux_loss_without_gradient_for_the_encoder_is_called_wrong(precision: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    right = update.aux_gradients

    def without_encoder(*arguments: object) -> object:
        found = right(*arguments)
        return found._replace(W_enc=torch.zeros_like(found.W_enc), b_enc=torch.zeros_like(found.b_enc))

    monkeypatch.setattr(update, "aux_gradients", without_encoder)
    assert [defect.split(" (")[0] for defect in verdict(ours(precision)).defects] == ["AuxK"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_missing_relu_mask_is_called_wrong_though_it_shows_in_few_rows_only(
    precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = objectives._reconstructed
    monkeypatch.setattr(
        objectives, "_reconstructed", lambda sae, scene, support, codes, through: right(sae, scene, support, codes, None)
    )
    assert [defect.split(" (")[0] for defect in verdict(ours(precision)).defects] == ["ReLU mask with fewer than k positive"]


class Broken(Contender):
    """Gradients that someone else has spoilt."""

    name, precision = "broken", "fp32"

    def __init__(self, inner: Contender, spoil: Callable[[Tensors], Tensors]) -> None:
        self.inner, self.spoil = inner, spoil

    def update(self, rows: Tensor) -> None:
        self.inner.update(rows)

    def gradients(self, rows: Tensor, dead: Tensor | None) -> Tensors:
        return self.spoil(self.inner.gradients(rows, dead))

    def true_loss(self, p: Tensors, rows: Tensor, dead: Tensor | None, active: Tensor | None) -> Tensor:
        return self.inner.true_loss(p, rows, dead, active)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda found: found | {"b_pre": found["b_pre"] * 1.001},
        lambda found: found | {"W_dec": found["W_dec"].clone().index_fill_(0, torch.tensor([3]), float("nan"))},
        lambda found: found | {"W_enc": torch.zeros_like(found["W_enc"])},
    ],
    ids=["a bias a thousandth too large", "a row of NaN", "an encoder that never learns"],
)
def test_spoilt_gradients_are_called_wrong_in_every_scene(spoil: Callable[[Tensors], Tensors]) -> None:
    assert len(verdict(lambda start: Broken(ours()(start), spoil)).defects) == 3


def test_scenes_are_what_they_say() -> None:
    usual, few, dead = scenes(SHAPE, START, ROWS)
    for scene in (usual, few, dead):
        assert len(scene.rows) > len(ROWS) // 2
    positive = [
        ((scene.rows - scene.start["b_pre"]) @ scene.start["W_enc"].T + scene.start["b_enc"] > 0).sum(1) for scene in (usual, few)
    ]
    assert int(positive[0].min()) >= SHAPE.k
    assert int(positive[1].max()) < SHAPE.k
    assert int(positive[1].sum()) > 0
    assert dead.dead is not None
    assert len(dead.dead.unique()) == len(dead.dead) == SHAPE.d_model // 4


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.filterwarnings("ignore")  # of packages that are not ours
def test_what_is_known_of_each_peer_is_found(name: str) -> None:
    try:
        peer(name, SHAPE, START, CPU)
    except ImportError as reason:
        pytest.skip(f"peers live in the environment of make bench: {reason}")
    found = verdict(lambda start: peer(name, SHAPE, start, CPU))
    wrong = ["ReLU mask with fewer than k positive", "AuxK"] if name == "eai-sparsify" else []
    assert [defect.split(" (")[0] for defect in found.defects] == wrong
