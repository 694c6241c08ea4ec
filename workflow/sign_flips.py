"""Confirmation of listed latents by sign-flip permutation over prompts, with as many flips as the correction asks for."""

from typing import NamedTuple

import numpy as np

from workflow.config.section import ConfigError
from workflow.prompt_firings import PairedFirings

CHUNK_VALUES = 1 << 22
"""Signs drawn together: 32 MB."""
COLUMN_VALUES = 1 << 20
"""Sums of flips of one block of columns at a time: 8 MB."""

TIE = 1e-12
"""Sums within this share of the observed one count as reaching it, since they are added in another order."""


class Confirmation(NamedTuple):
    """The listed latents under sign flips."""

    latents: np.ndarray
    """The listed latents, int64."""
    p: np.ndarray
    """(1 + #{flips with |Σ ±δ| ≥ |Σδ|}) / (R + 1), δ a prompt's difference of rates."""
    threshold: float
    """q·listed/tested: what p may be at most, the step of Benjamini and Hochberg at which the list ends."""
    flips: int
    """R."""
    confirmed: np.ndarray
    """bool: p ≤ threshold."""


def flips_needed(tested: int, listed: int, q: float) -> int:
    """The least R whose smallest possible p-value, 1/(R+1), is at most q·listed/tested.

    With fewer flips nothing can be confirmed, whatever the data: 7168 tests at 5 % ask for 143 359 flips to confirm a single one.
    """
    return max(1, int(np.ceil(tested / (q * max(listed, 1)) * (1 - TIE))) - 1)


def sign_flip_p(paired: PairedFirings, latents: np.ndarray, *, flips: int, seed: int) -> np.ndarray:
    """Two-sided p-values of the listed latents' mean rate differences, exact under prompts whose two measurements could be swapped.

    Args:
        paired: two measurements.
        latents: indices of the listed latents.
        flips: R; p cannot fall below 1/(R + 1), nor below about 2^(1−n) for a latent that changed on n prompts.
        seed: seed of the flips.

    Source: Phipson & Smyth 2010, Stat. Appl. Genet. Mol. Biol. 9, 39, for counting the observed arrangement.
    """
    p = np.empty(len(latents))
    for places in paired.blocks(np.arange(len(latents))):
        before, after = paired.rates(latents[places])
        p[places] = (1 + _as_extreme(after - before, flips, seed)) / (flips + 1)
    return p


def difference_p(differences: np.ndarray, *, flips: int, seed: int) -> np.ndarray:
    """Two-sided p-values of the sums of columns, exact under rows whose two measurements could be swapped.

    Args:
        differences: float64 [row, column], a row per prompt or group of prompts.
        flips: R; p cannot fall below 1/(R + 1).
        seed: seed of the flips.

    Source: as `sign_flip_p`.
    """
    columns = max(1, COLUMN_VALUES // flips)
    blocks = [differences[:, start : start + columns] for start in range(0, differences.shape[1], columns)]
    return np.concatenate([(1 + _as_extreme(block, flips, seed)) / (flips + 1) for block in blocks] or [np.empty(0)])


def _as_extreme(differences: np.ndarray, flips: int, seed: int) -> np.ndarray:
    """Flips under which the sum of each column is at least as large in size as it is."""
    draw, moved = np.random.default_rng(seed), differences[(differences != 0).any(1)]
    observed, reached = np.abs(differences.sum(0)) * (1 - TIE), np.zeros(differences.shape[1], dtype=np.int64)
    rows = max(1, CHUNK_VALUES // max(len(moved), 1))
    for start in range(0, flips, rows):
        shape = (min(rows, flips - start), len(moved))
        bits = np.unpackbits(np.frombuffer(draw.bytes(-(-shape[0] * shape[1] // 8)), np.uint8), count=shape[0] * shape[1])
        # Σ ±δ = 2·Σ over the kept signs − Σδ
        sums = 2 * (bits.reshape(shape).astype(np.float64) @ moved) - moved.sum(0)
        reached += (np.abs(sums) >= observed).sum(0)
    return reached


def confirm(paired: PairedFirings, latents: np.ndarray, *, tested: int, q: float, flips: int | None, seed: int) -> Confirmation:
    """Which of the listed latents also pass a sign-flip test at the step of the false discovery rate where the list ends.

    Args:
        paired: two measurements.
        latents: indices of the latents whose q-value is at most q.
        tested: how many latents were tested to find them.
        q: false discovery rate.
        flips: R, or None for ten times as many as are needed, so that p is known to a third at the threshold.
        seed: seed of the flips.

    Raises:
        ConfigError: fewer flips than could confirm anything.
    """
    needed = flips_needed(tested, len(latents), q)
    chosen = 10 * needed if flips is None else flips
    if chosen < needed:
        raise ConfigError(
            f"Sign flips must be at least {needed} to confirm {len(latents)} of {tested} latents at q = {q}; got {chosen}, whose "
            f"smallest p-value is {1 / (chosen + 1):.2g}. Ask for more, or leave the number open."
        )
    threshold = q * len(latents) / tested if tested else 0.0
    p = sign_flip_p(paired, latents, flips=chosen, seed=seed)
    return Confirmation(latents, p, threshold, chosen, p <= threshold)
