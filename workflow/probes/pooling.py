"""From the tokens of steps to the steps: the last one, the mean, of each latent the value that is largest in size.

Rows and codes come in passes; all tokens of a step come in one of them, in their order. A step none of whose tokens counts has
zeros.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from sae_core.kernels.codes import Codes

LAST, MEAN, MAX = "last", "mean", "max"


class Tokens:
    """Which step each row of a pass belongs to."""

    def __init__(self, steps: np.ndarray) -> None:
        """`steps`: number of the step of each row."""
        self.steps = steps
        self.present, self._inverse, self._counts = np.unique(steps, return_inverse=True, return_counts=True)
        """The steps there are, rising."""
        last = np.zeros(len(self.present), np.int64)
        last[self._inverse] = np.arange(len(steps))
        self.last = last
        """Row of the last token of each of them."""

    def mean(self, rows: Tensor) -> np.ndarray:
        """Means [step, width] of rows, summed in float64."""
        sums = torch.zeros(len(self.present), rows.shape[1], dtype=torch.float64)
        sums.index_add_(0, torch.from_numpy(self._inverse), rows.cpu().double())
        return (sums.numpy() / self._counts[:, None]).astype(np.float32)

    def counts(self, steps: np.ndarray) -> np.ndarray:
        """Tokens of each of these steps, which must be present."""
        return self._counts[np.searchsorted(self.present, steps)]


class DenseSteps:
    """Pooled rows of a block of steps."""

    def __init__(self, steps: int, width: int, pooling: Sequence[str]) -> None:
        self._pooled = {how: np.zeros((steps, width), np.float32) for how in pooling}

    def add(self, rows: Tensor, tokens: Tokens) -> None:
        """Rows [token, width] of one pass."""
        if LAST in self._pooled:
            self._pooled[LAST][tokens.present] = rows[torch.from_numpy(tokens.last).to(rows.device)].float().cpu().numpy()
        if MEAN in self._pooled:
            self._pooled[MEAN][tokens.present] = tokens.mean(rows)

    def matrices(self) -> dict[str, np.ndarray]:
        """[step, width] by pooling."""
        return self._pooled


class SparseSteps:
    """Pooled codes of a block of steps."""

    def __init__(self, steps: int, width: int, pooling: Sequence[str]) -> None:
        self._shape = (steps, width)
        self._found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {how: [] for how in pooling}

    def add(self, codes: Codes, tokens: Tokens) -> None:
        """Codes of the rows of one pass."""
        codes = codes.active()
        rows, latents, values = (part.cpu().numpy() for part in (codes.rows(), codes.latents, codes.values))
        keys = tokens.steps[rows] * self._shape[1] + latents.astype(np.int64)
        if LAST in self._found:
            last = np.isin(rows, tokens.last)
            self._found[LAST].append((keys[last], values[last]))
        if not {MEAN, MAX} & set(self._found) or not len(keys):
            return
        order = np.argsort(keys, kind="stable")
        keys, values = keys[order], values[order]
        first = np.flatnonzero(np.diff(keys, prepend=-1))
        if MEAN in self._found:
            sums = np.add.reduceat(values.astype(np.float64), first)
            counts = tokens.counts(keys[first] // self._shape[1])
            self._found[MEAN].append((keys[first], (sums / counts).astype(np.float32)))
        if MAX in self._found:
            high, low = np.maximum.reduceat(values, first), np.minimum.reduceat(values, first)
            self._found[MAX].append((keys[first], np.where(-low > high, low, high)))

    def matrices(self) -> dict[str, csr_array]:
        """[step, width] by pooling, indices rising, no zeros."""
        return {how: self._joined(parts) for how, parts in self._found.items()}

    def _joined(self, parts: list[tuple[np.ndarray, np.ndarray]]) -> csr_array:
        keys = np.concatenate([keys for keys, _ in parts] or [np.empty(0, np.int64)])
        values = np.concatenate([values for _, values in parts] or [np.empty(0, np.float32)])
        order = np.argsort(keys, kind="stable")
        order = order[values[order] != 0]
        steps, latents = np.divmod(keys[order], self._shape[1])
        indptr = np.concatenate([[0], np.cumsum(np.bincount(steps, minlength=self._shape[0]))])
        return csr_array((values[order].astype(np.float32), latents.astype(np.int32), indptr), shape=self._shape)
