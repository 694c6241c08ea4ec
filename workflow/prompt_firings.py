"""Firings of the same latents in two measurements, paired by prompt: what all tests of single latents stand on.

A prompt is the unit of every test, because rows of one prompt are not independent; nothing here gives out rows.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, final

import numpy as np
import torch
from scipy.sparse import csc_array, csr_array
from torch import Tensor

from sae_core.metrics.firing import FiringSums
from workflow.config.section import ConfigError

BLOCK_VALUES = 1 << 21
"""Numbers in a dense block of prompts × latents: 16 MB."""


class PromptFirings(NamedTuple):
    """Firings of one SAE on one store."""

    problems: Sequence[str]
    """Name of each prompt, in the order of the sums."""
    sums: FiringSums
    """Their sums, sinks dropped."""


class Block(NamedTuple):
    """Sums of some latents, dense: float64 [prompt, latent]."""

    firings_base: np.ndarray
    """Rows of each prompt on which each latent was active, in the first measurement."""
    firings: np.ndarray
    """The same in the second."""
    activation_base: np.ndarray
    """Σf over those rows in the first measurement."""
    activation: np.ndarray
    """The same in the second."""


@final
class PairedFirings:
    """Two measurements of the same prompts with SAEs whose latents go together by index; prompts without rows are left out."""

    def __init__(self, base: PromptFirings, now: PromptFirings) -> None:
        """Pair them.

        Raises:
            ConfigError: other prompts, rows of a prompt in one of them alone, unlike numbers of latents, fewer than 2 prompts.
        """
        _check_pairing(base, now)
        used = base.sums.rows.numpy() > 0
        self._rows_base, self._rows = (one.sums.rows.numpy()[used, None].astype(np.float64) for one in (base, now))
        self._base, self._now = (_by_latent(one.sums, used) for one in (base, now))
        self.prompts, self.d_sae = len(self._rows), now.sums.d_sae

    def block(self, latents: np.ndarray) -> Block:
        """Sums of some latents."""
        return Block(*(matrix[:, latents].toarray() for matrices in zip(self._base, self._now, strict=True) for matrix in matrices))

    def rates(self, latents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Firings per row of each prompt, in both measurements: float64 [prompt, latent]."""
        block = self.block(latents)
        return block.firings_base / self._rows_base, block.firings / self._rows

    def blocks(self, latents: np.ndarray) -> Iterator[np.ndarray]:
        """The latents in blocks that are worth making dense together."""
        size = max(1, BLOCK_VALUES // self.prompts)
        yield from (latents[start : start + size] for start in range(0, len(latents), size))

    def testable(self, min_firings: int, min_prompts: int) -> np.ndarray:
        """Latents that fired often enough in the two measurements together: bool [latent].

        The two are pooled because a filter must not lean towards change: swapping the measurements of any prompt leaves it as it
        is, so it does not disturb the tests of those it lets pass, and a latent that fell silent is tested like one that awoke.
        Source: independent filtering, Bourgon, Gentleman & Huber 2010, PNAS 107, 9546.
        """
        together = self._base[0] + self._now[0]
        return (together.sum(axis=0) >= min_firings) & (np.diff(together.indptr) >= min_prompts)

    def alive_in_both(self, min_firings: int, min_prompts: int) -> np.ndarray:
        """Latents that fired often enough in each of the two measurements: bool [latent]."""
        each = [(one.sum(axis=0) >= min_firings) & (np.diff(one.indptr) >= min_prompts) for one in (self._base[0], self._now[0])]
        return each[0] & each[1]


def with_rows_in_both(base: FiringSums, now: FiringSums) -> tuple[FiringSums, FiringSums]:
    """Both without the prompts that have rows in one of them alone, as they may where each stage reads its own text."""
    both = (base.rows > 0) & (now.rows > 0)
    return _only(base, both), _only(now, both)


def _only(sums: FiringSums, prompts: Tensor) -> FiringSums:
    if bool(prompts[sums.rows > 0].all()):
        return sums
    kept = prompts[sums.prompts()]
    offsets = torch.zeros_like(sums.offsets)
    torch.cumsum(torch.where(prompts, sums.offsets.diff(), 0), 0, out=offsets[1:])
    parts = (part[kept] for part in (sums.latents, sums.firings, sums.activation))
    return FiringSums(torch.where(prompts, sums.rows, 0), offsets, *parts, d_sae=sums.d_sae)


def _by_latent(sums: FiringSums, used: np.ndarray) -> tuple[csc_array, csc_array]:
    """Firings and activation of the used prompts as matrices [prompt, latent] whose latents are contiguous."""
    shape, where = (len(used), sums.d_sae), (sums.latents.numpy(), sums.offsets.numpy())
    matrices = (csr_array((values.numpy().astype(np.float64), *where), shape=shape) for values in (sums.firings, sums.activation))
    firings, activation = (csc_array(matrix[used]) for matrix in matrices)
    return firings, activation


def _check_pairing(base: PromptFirings, now: PromptFirings) -> None:
    if list(base.problems) != list(now.problems):
        shared = len(set(base.problems) & set(now.problems))
        raise ConfigError(
            f"Both measurements must be of the same prompts in the same order; got {len(base.problems)} and {len(now.problems)} of "
            f"which {shared} are shared. Measure both stages on the same problems."
        )
    if base.sums.d_sae != now.sums.d_sae:
        raise ConfigError(
            f"Both SAEs must have the same latents; got {base.sums.d_sae} and {now.sums.d_sae}. Compare SAEs of one chain."
        )
    rows = base.sums.rows.numpy() > 0, now.sums.rows.numpy() > 0
    if alone := int((rows[0] != rows[1]).sum()):
        raise ConfigError(
            f"Every prompt must have rows in both measurements or in none; {alone} of {len(rows[0])} have them in one alone. "
            "Leave those prompts out of both."
        )
    if (prompts := int(rows[0].sum())) < 2:
        raise ConfigError(f"A test by prompt must have at least 2 prompts with rows; got {prompts}. Measure on more problems.")
