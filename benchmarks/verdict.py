"""Whether a contender's gradients are those of its own loss, by dense autograd in double precision."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.contender import Contender
from benchmarks.shapes import Shape, Tensors

CHECKED_ROWS = 128
LARGEST = {"fp32": 1e-5, "bf16": 2e-2}
"""Relative error of a gradient, in the norm of its tensor, that rounding alone can cause."""
CLEAR = 2e-5
"""Rows are checked only where no code lies nearer than this to the border of being kept: float32 can tell which side it is on."""


class Scene(NamedTuple):
    """Something to compute gradients of."""

    defect: str
    """What it means if they are wrong."""
    start: Tensors
    rows: Tensor
    dead: Tensor | None


class Verdict(NamedTuple):
    """How right a contender's gradients are."""

    error: float
    """Largest relative error of any tensor's gradient, over all scenes."""
    defects: tuple[str, ...]
    """What is wrong; nothing if all gradients are right."""

    @property
    def right(self) -> bool:
        return not self.defects

    def __str__(self) -> str:
        return f"right to {self.error:.1e}" if self.right else f"wrong: {'; '.join(self.defects)}"


def judged(make: Callable[[Tensors], Contender], shape: Shape, start: Tensors, rows: Tensor, aux: bool = True) -> Verdict:
    """The verdict on a contender, made anew from each scene's weights.

    Args:
        aux: whether its auxiliary loss is judged, too, if it has one.
    """
    worst, defects = 0.0, []
    for scene in scenes(shape, start, rows):
        contender = make(scene.start)
        if scene.dead is not None and not (aux and contender.has_aux):
            continue
        error = error_of(contender, scene)
        worst = max(worst, error)
        if not error <= LARGEST[contender.precision]:
            defects.append(f"{scene.defect} ({error:.1e})")
    return Verdict(worst, tuple(defects))


def scenes(shape: Shape, start: Tensors, rows: Tensor) -> Iterator[Scene]:
    """The loss alone; the loss where every row has fewer than k positive pre-activations; the loss with dead latents."""
    z = _pre_activations(start, rows[:CHECKED_ROWS])
    border = z.topk(shape.k + 1).values
    yield Scene("loss", start, _clear(rows, border[:, -2] - border[:, -1]), None)
    lower = border[:, -2].max().to(start["b_enc"].dtype)
    few = start | {"b_enc": start["b_enc"] - lower}
    yield Scene("ReLU mask with fewer than k positive", few, _clear(rows, _pre_activations(few, rows).abs().amin(1)), None)
    draw = torch.Generator().manual_seed(2)
    count = max(1, min(shape.d_model, shape.d_sae) // 4)
    dead = torch.randperm(shape.d_sae, generator=draw)[:count].sort().values.to(rows.device)
    gap = torch.minimum(border[:, -2] - border[:, -1], z[:, dead].abs().amin(1))
    yield Scene("AuxK", start, _clear(rows, gap), dead)


def error_of(contender: Contender, scene: Scene) -> float:
    """Largest relative error of a tensor's gradient; infinity if one is missing or not finite."""
    found = contender.gradients(scene.rows, scene.dead)
    p = {name: scene.start[name].to(scene.rows.device).double().requires_grad_() for name in found}
    loss = contender.true_loss(p, scene.rows.double(), scene.dead, contender.active(scene.rows))
    truths = torch.autograd.grad(loss, list(p.values()))
    errors = [
        float((found[name].double() - truth).norm() / truth.norm().clamp_min(1e-30))
        for name, truth in zip(found, truths, strict=True)
    ]
    return max(error if error == error else float("inf") for error in errors)


def _pre_activations(start: Tensors, rows: Tensor) -> Tensor:
    weights = {name: tensor.to(rows.device).double() for name, tensor in start.items()}
    return (rows[:CHECKED_ROWS].double() - weights["b_dec"]) @ weights["W_enc"].T + weights["b_enc"]


def _clear(rows: Tensor, gap: Tensor) -> Tensor:
    return rows[:CHECKED_ROWS][gap > CLEAR]
