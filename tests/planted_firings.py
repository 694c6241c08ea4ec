"""Firings of planted latents, clustered by prompt: prompts differ in how much a latent has to do with them."""

from collections.abc import Sequence

import numpy as np
import torch

from sae_core.metrics.firing import FiringSums
from workflow.prompt_firings import PairedFirings, PromptFirings


def firings_of(
    counts: np.ndarray, rows: np.ndarray, activation: np.ndarray | None = None, problems: Sequence[str] | None = None
) -> PromptFirings:
    """Firings from dense counts [prompt, latent]; the activation is one per firing unless it is given."""
    prompts, latents = np.nonzero(counts)
    offsets = np.searchsorted(prompts, np.arange(len(counts) + 1))
    values = (counts if activation is None else activation)[prompts, latents]
    sums = FiringSums(
        torch.from_numpy(np.asarray(rows, dtype=np.int64)),
        torch.from_numpy(offsets.astype(np.int64)),
        torch.from_numpy(latents.astype(np.int32)),
        torch.from_numpy(counts[prompts, latents].astype(np.int32)),
        torch.from_numpy(values.astype(np.float64)),
        counts.shape[1],
    )
    return PromptFirings(problems or [f"p{number}" for number in range(len(counts))], sums)


def clustered_counts(
    draw: np.random.Generator, rates: np.ndarray, prompts: int, rows: int, common: np.ndarray | None = None
) -> np.ndarray:
    """Counts [prompt, latent] whose rate in a prompt is a gamma multiple of the latent's, given or drawn."""
    multiples = draw.gamma(0.7, 1 / 0.7, size=(prompts, len(rates))) if common is None else common
    return draw.binomial(rows, np.clip(rates * multiples, 0, 1))


def clustered_pair(
    seed: int, rates: np.ndarray, factors: np.ndarray | float = 1.0, prompts: int = 150, rows: int = 120
) -> PairedFirings:
    """Two measurements of latents with these base rates; in the second the rates are multiplied by the factors.

    Half of the clustering is shared by both measurements, half is each one's own, as when answers differ on the same question.
    """
    draw = np.random.default_rng(seed)
    shape = (prompts, len(rates))
    common, own = draw.gamma(0.7, 1 / 0.7, size=shape), [draw.gamma(3.0, 1 / 3.0, size=shape) for _ in range(2)]
    n = np.full(prompts, rows)
    return PairedFirings(
        firings_of(clustered_counts(draw, rates, prompts, rows, common * own[0]), n),
        firings_of(clustered_counts(draw, rates * factors, prompts, rows, common * own[1]), n),
    )
