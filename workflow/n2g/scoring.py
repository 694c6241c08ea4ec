"""Explanations on held-out rows: counts by prompt, and precision, recall, F1 and average precision with intervals by prompt."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from sae_core.models.sae import SAE
from workflow.formats.activations import Store
from workflow.n2g.encoding import ROWS, Text, active_entries
from workflow.n2g.predicting import Prediction

LEVELS = 24
"""Steps of the expected activation between 0 and the largest one in mining, by which rows are ranked."""


class Counts(NamedTuple):
    """One explanation of one latent, summed over the rows of each prompt."""

    hits: np.ndarray
    """Said to be active and active; said and not active; active and not said: float32 [prompt, 3]."""
    strong: np.ndarray
    """The same of strong activations."""
    levels: np.ndarray
    """Rows, and active ones, by expected activation from the highest level down: float32 [prompt, LEVELS + 1, 2]."""


class Measured(NamedTuple):
    """One latent on held-out rows."""

    by_explanation: dict[str, Counts]
    largest: np.ndarray
    """Largest activation on the rows of each prompt, float32 [prompt]."""
    active: np.ndarray
    """Rows of each prompt on which it is active, float32 [prompt]."""
    rows: np.ndarray
    """Kept rows of each prompt, float32 [prompt]."""


class Asked(NamedTuple):
    """A latent that is scored."""

    latent: int
    scale: float
    """Its largest activation in mining."""
    predict: Callable[[Text], Mapping[str, Prediction]]
    """What its explanations say of rows; of the same object for all latents."""
    reach: int
    """Tokens that they look at."""


def measure(
    store: Store, text: Text, prompt: np.ndarray, prompts: int, sae: SAE, asked: Sequence[Asked], *, strong: float
) -> list[Measured]:
    """Counts of every latent, from one pass over the store.

    Args:
        store: opened without a row filter.
        text: its tokens and mask.
        prompt: index of each row's problem.
        prompts: how many there are.
        sae: whose latents they are.
        asked: latents with their explanations.
        strong: share of the largest activation in mining from which one is strong.
    """
    found, reach = [_Sums(prompts, one.scale, strong) for one in asked], max(one.reach for one in asked)
    for first, last, active in _blocks(store, sae, asked):
        front, kept = min(first, reach - 1), text.kept[first:last]
        part = Text(*(column[first - front : last] for column in text))  # rows in front lend context alone
        for at, (one, sums) in enumerate(zip(asked, found, strict=True)):
            said = one.predict(part)
            sums.add(active[kept, at], prompt[first:last][kept], {name: _only(each, front, kept) for name, each in said.items()})
    return [sums.measured() for sums in found]


def _only(said: Prediction, front: int, kept: np.ndarray) -> Prediction:
    return Prediction(*(column[front:][kept] for column in said))


def _blocks(store: Store, sae: SAE, asked: Sequence[Asked]) -> Iterator[tuple[int, int, np.ndarray]]:
    """First and last row of each block, and activations [row, latent]."""
    column = np.full(sae.config.d_sae, -1, dtype=np.int64)
    column[[one.latent for one in asked]] = np.arange(len(asked))
    for batch, where in store.sequential(ROWS):
        with torch.inference_mode():
            which, rows, values = active_entries(sae, batch, column)
        dense = np.zeros((len(batch), len(asked)), dtype=np.float32)
        dense[rows, which] = values
        yield where.start, where.start + len(batch), dense


class _Sums:
    def __init__(self, prompts: int, scale: float, strong: float) -> None:
        self._prompts, self._scale, self._strong = prompts, max(scale, 1e-12), strong
        self._counts: dict[str, Counts] = {}
        self._largest, self._active, self._rows = (np.zeros(prompts, dtype=np.float32) for _ in range(3))

    def add(self, values: np.ndarray, prompt: np.ndarray, said: Mapping[str, Prediction]) -> None:
        active, high = values > 0, values >= self._strong * self._scale
        np.maximum.at(self._largest, prompt, values)
        self._active += self._by_prompt(prompt, active)
        self._rows += self._by_prompt(prompt, np.ones(len(values), dtype=bool))
        for name, each in said.items():
            counts = self._counts.setdefault(name, _nothing(self._prompts))
            for sums, truth, guess in ((counts.hits, active, each.fires), (counts.strong, high, each.strong)):
                for column, chosen in enumerate((truth & guess, ~truth & guess, truth & ~guess)):
                    sums[:, column] += self._by_prompt(prompt, chosen)
            level = LEVELS - np.clip(np.ceil(each.score / self._scale * LEVELS), 0, LEVELS).astype(np.int64)
            place = prompt * (LEVELS + 1) + level
            for column, weights in enumerate((None, active)):
                sums = np.bincount(place, weights, self._prompts * (LEVELS + 1))
                counts.levels[:, :, column] += sums.reshape(self._prompts, -1)

    def _by_prompt(self, prompt: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        return np.bincount(prompt[chosen], minlength=self._prompts).astype(np.float32)

    def measured(self) -> Measured:
        return Measured(self._counts, self._largest, self._active, self._rows)


def _nothing(prompts: int) -> Counts:
    hits, strong, levels = (np.zeros((prompts, *shape), dtype=np.float32) for shape in ((3,), (3,), (LEVELS + 1, 2)))
    return Counts(hits, strong, levels)


class Scores(NamedTuple):
    """Vectors over replicates, the point first: float64 [1 + replicates]. A ratio without denominator is 0."""

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    ap: np.ndarray


def scores(hits: np.ndarray, levels: np.ndarray, weights: np.ndarray) -> Scores:
    """Scores of one explanation.

    Args:
        hits: as `Counts.hits`, or `strong`.
        levels: as `Counts.levels`.
        weights: how often each prompt counts, [1 + replicates, prompt].

    Average precision is Σ (Rₗ − Rₗ₋₁) Pₗ over levels of the expected activation: rows of one level are ties, and an explanation
    that says nothing has the base rate.
    """
    hit, false, missed = (weights @ hits).T.astype(np.float64)
    by_level = (weights @ levels.reshape(len(levels), -1)).reshape(len(weights), -1, 2).astype(np.float64)
    rows, active = by_level.cumsum(1).transpose(2, 0, 1)
    gained = np.diff(active, axis=1, prepend=0.0)
    ap = _ratio((gained * _ratio(active, rows)).sum(1), active[:, -1])
    return Scores(_ratio(hit, hit + false), _ratio(hit, hit + missed), _ratio(2 * hit, 2 * hit + false + missed), ap)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def top_prompts(measured: Measured, most: int) -> np.ndarray:
    """Indices of the prompts with the latent's largest activations, rising; fewer where it is active on fewer."""
    order = np.argsort(-measured.largest, kind="stable")[:most]
    return np.sort(order[measured.largest[order] > 0])
