"""The SSAE paper's perceptron as a probe: trained epoch by epoch, so that the folds can choose where to stop.

Losses are the paper's: binary cross-entropy, mean squared error, cross-entropy; of a number that is standardised. Features are
scaled as for linear probes. Batches are drawn in an order keyed by (seed, epoch); learning rates change with the epoch.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import issparse

from sae_core.models.step_classifier import StepClassifier
from workflow.config.probe_fits import MlpSettings
from workflow.config.section import ConfigError
from workflow.probes.scaling import Matrix, Scaling, scaling_of
from workflow.probes.tasks import BINARY, CLASSES

READ = 4096
"""Rows of one forward pass when nothing is trained."""
PUBLISHED = MlpSettings(hidden=1024, dropout=0.1, epochs=1000, batch=512, lr=1e-6, min_lr=1e-7, warmup_epochs=2)
"""The settings of classifier.yaml: batches of 128 whose gradients are gathered over 4."""


class Perceptron(NamedTuple):
    """A trained perceptron on raw rows."""

    model: StepClassifier
    scaling: Scaling
    middle: float
    spread: float
    """What is said of one output: spread · output + middle."""

    def __call__(self, rows: Matrix) -> np.ndarray:
        """Log odds or numbers, [row]; log p of classes, [row, class]."""
        self.model.eval()
        with torch.inference_mode():
            parts = [self.model(_tensor(self.scaling, rows[at : at + READ])) for at in range(0, rows.shape[0], READ)]
        found = torch.cat(parts).double() if parts else torch.zeros((0, 1), dtype=torch.float64)
        if found.shape[1] > 1:
            return torch.log_softmax(found, 1).numpy()
        return found[:, 0].numpy() * self.spread + self.middle

    def rescaled(self, slope: float, shift: float) -> "Perceptron":
        """The probe that says slope · this + shift."""
        return self._replace(middle=self.middle * slope + shift, spread=self.spread * slope)


def trained(
    kind: str, rows: Matrix, values: np.ndarray, classes: int, epochs: int, settings: MlpSettings, seed: int
) -> Iterator[Perceptron]:
    """The perceptron after each epoch, the same object every time.

    Args:
        kind: of the task.
        rows: raw training rows.
        values: their labels.
        classes: of a task of classes.
        epochs: how many are trained; the schedule is that of settings.epochs.
        settings: of the training.
        seed: of weights, order and dropout.
    """
    torch.manual_seed(seed)
    number = kind not in (BINARY, CLASSES)
    middle, spread = (float(values.mean()), float(values.std()) or 1.0) if number else (0.0, 1.0)
    outputs = classes if kind == CLASSES else 1
    probe = Perceptron(StepClassifier(rows.shape[1], settings.hidden, outputs, settings.dropout), scaling_of(rows), middle, spread)
    targets = torch.from_numpy(values.astype(np.int64) if kind == CLASSES else ((values - middle) / spread).astype(np.float32))
    optimiser = torch.optim.AdamW(probe.model.parameters(), lr=settings.lr, betas=(0.9, 0.95), weight_decay=settings.weight_decay)
    for epoch in range(epochs):
        optimiser.param_groups[0]["lr"] = learning_rate(epoch, settings)
        order = np.random.default_rng([seed, epoch]).permutation(len(values))
        probe.model.train()
        for first in range(0, len(order), settings.batch):
            places = order[first : first + settings.batch]
            loss = _loss(kind, probe.model(_tensor(probe.scaling, rows[places])), targets[places])
            optimiser.zero_grad()
            loss.backward()
            if settings.grad_clip:
                torch.nn.utils.clip_grad_norm_(probe.model.parameters(), settings.grad_clip)
            optimiser.step()
        yield probe


def learning_rate(epoch: int, settings: MlpSettings) -> float:
    """Linear over the warm-up, then a cosine down to min_lr at the last epoch."""
    if epoch < settings.warmup_epochs:
        return settings.lr * (epoch + 1) / (settings.warmup_epochs + 1)
    share = (epoch - settings.warmup_epochs) / max(1, settings.epochs - settings.warmup_epochs)
    return settings.min_lr + (settings.lr - settings.min_lr) * (1 + math.cos(math.pi * min(1.0, share))) / 2


def read_published(path: Path | str) -> StepClassifier:
    """The perceptron of a published file `ckpt_*.pt`, or of its bare weights; nothing in it is run.

    Raises:
        ConfigError: it holds no such perceptron.
    """
    found: Any = torch.load(path, map_location="cpu", weights_only=True)
    state: Mapping[str, torch.Tensor] = found["model"] if isinstance(found, dict) and "model" in found else found
    try:
        return StepClassifier.from_state(state)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def _loss(kind: str, said: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    if kind == CLASSES:
        return torch.nn.functional.cross_entropy(said, targets)
    if kind == BINARY:
        return torch.nn.functional.binary_cross_entropy_with_logits(said[:, 0], targets)
    return torch.nn.functional.mse_loss(said[:, 0], targets)


def _tensor(scaling: Scaling, rows: Matrix) -> torch.Tensor:
    scaled = scaling(rows)
    return torch.from_numpy(np.asarray(scaled.toarray() if issparse(scaled) else scaled, dtype=np.float32))  # type: ignore[union-attr]  # sparse
