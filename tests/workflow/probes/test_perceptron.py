"""The SSAE paper's perceptron: its published weights load, it learns, and the folds choose where it stops."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sae_core.models.step_classifier import StepClassifier
from workflow.config.probe_fits import MlpSettings, ProbeFitsConfig
from workflow.config.section import ConfigError
from workflow.probes.cells import Cell, fitted
from workflow.probes.linear import Recipe
from workflow.probes.perceptron import PUBLISHED, learning_rate, read_published, trained
from workflow.probes.tasks import BINARY, CLASSES, NUMBER

QUICK = MlpSettings(hidden=16, epochs=12, batch=32, lr=1e-2, warmup_epochs=1)


def published(width: int = 6, hidden: int = 8, outputs: int = 1) -> dict[str, torch.Tensor]:
    """Keys and shapes of the published classifier."""
    draw = torch.Generator().manual_seed(0)
    half = hidden // 2
    shapes = {
        "net.0.weight": (hidden, width), "net.0.bias": (hidden,), "net.1.weight": (hidden,), "net.1.bias": (hidden,),
        "net.4.weight": (half, hidden), "net.4.bias": (half,), "net.5.weight": (half,), "net.5.bias": (half,),
        "net.8.weight": (outputs, half), "net.8.bias": (outputs,),
    }  # fmt: skip
    return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_published_weights_load_and_say_the_same(tmp_path: Path, prefix: str) -> None:
    state = published()
    file = {"model": {prefix + name: tensor for name, tensor in state.items()}, "iter_num": 3, "config": {"inputs": "Tr"}}
    torch.save(file, tmp_path / "ckpt.pt")
    model = read_published(tmp_path / "ckpt.pt").eval()
    rows = torch.randn(5, 6)
    hidden = rows
    for linear, norm in (("net.0", "net.1"), ("net.4", "net.5")):
        hidden = hidden @ state[f"{linear}.weight"].T + state[f"{linear}.bias"]
        hidden = torch.relu(torch.layer_norm(hidden, hidden.shape[1:], state[f"{norm}.weight"], state[f"{norm}.bias"]))
    torch.testing.assert_close(model(rows), hidden @ state["net.8.weight"].T + state["net.8.bias"])


def test_sizes_are_those_of_the_weights() -> None:
    model = StepClassifier.from_state(published(width=12, hidden=20, outputs=7))
    assert model.net[0].weight.shape == (20, 12)
    assert model(torch.zeros(2, 12)).shape == (2, 7)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    torch.save({"model": {"linear.weight": torch.zeros(1, 3)}}, tmp_path / "ckpt.pt")
    with pytest.raises(ConfigError, match=r"must have the keys net\.0\.bias.*got linear\.weight"):
        read_published(tmp_path / "ckpt.pt")


def test_the_schedule_is_the_papers() -> None:
    """lr · (epoch + 1) / (warm-up + 1), then a cosine to min_lr."""
    assert learning_rate(0, PUBLISHED) == pytest.approx(1e-6 / 3)
    assert learning_rate(2, PUBLISHED) == pytest.approx(1e-6)
    assert learning_rate(501, PUBLISHED) == pytest.approx(5.5e-7, rel=1e-3)
    assert learning_rate(1000, PUBLISHED) == pytest.approx(1e-7)


def ring(count: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Points inside and outside a circle: no line tells them apart."""
    rows = np.random.default_rng(0).standard_normal((count, 2)).astype(np.float32)
    return rows, ((rows**2).sum(1) > 1.4).astype(np.float64)


def test_it_learns_what_no_line_can_tell_and_the_folds_say_when_to_stop() -> None:
    rows, labels = ring()
    cell = Cell(BINARY, rows, labels, np.arange(len(rows)) // 4, 0)
    settings = ProbeFitsConfig(mlp=QUICK, folds=3)
    found = {name: fitted(cell, Recipe(name), settings, 0) for name in ("mlp", "l2")}
    assert found["l2"].validation < 0.65 < 0.9 < found["mlp"].validation
    assert 1 <= found["mlp"].epochs <= QUICK.epochs
    assert found["mlp"].c is None
    again = fitted(cell, Recipe("mlp"), settings, 0)
    assert np.array_equal(again.says(rows), found["mlp"].says(rows))


def test_labels_without_a_rule_are_not_learned_on_held_out_groups() -> None:
    rows, _ = ring()
    labels = (np.random.default_rng(1).random(len(rows)) < 0.5).astype(float)
    found = fitted(Cell(BINARY, rows, labels, np.arange(len(rows)) // 4, 0), Recipe("mlp"), ProbeFitsConfig(mlp=QUICK, folds=3), 0)
    assert abs(found.validation - 0.5) < 0.1


@pytest.mark.parametrize(("kind", "outputs"), [(NUMBER, 0), (CLASSES, 3)])
def test_numbers_and_classes_have_their_own_losses(kind: str, outputs: int) -> None:
    rows, labels = ring()
    values = 100 + 20 * rows[:, 0].astype(np.float64) if kind == NUMBER else labels + (rows[:, 0] > 0)
    *_, last = trained(kind, rows, values, outputs, 30, QUICK.model_copy(update={"epochs": 30}), 0)
    said = last(rows)
    if kind == NUMBER:
        assert np.abs(said - values).mean() < 6
    else:
        assert np.allclose(np.exp(said).sum(1), 1)
        assert (said.argmax(1) == values).mean() > 0.85
