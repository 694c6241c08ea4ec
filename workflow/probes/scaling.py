"""Columns brought to one scale by training rows alone: dense ones standardised, sparse ones divided by their largest size.

A column of a sparse set that is active in most rows is centred, too: it would be another intercept, and the two hinder each other's
way to the best fit. Its zeros are filled, which at most doubles what is stored of it.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_array, issparse

BUSY = 0.5
"""Share of active rows above which a column of a sparse set is centred."""
Matrix = Any
"""[row, column], an np.ndarray or a csr_array; the stubs of scipy do not go with those of numpy."""


class Scaling(NamedTuple):
    """x ↦ (x − shift) / scale; a column that is constant in training becomes 0 in a dense set and stays 0 in a sparse one."""

    shift: np.ndarray
    """[width]; 0 for columns of a sparse set whose zeros stay."""
    scale: np.ndarray
    """[width], above 0."""

    def __call__(self, rows: Matrix) -> Matrix:
        """Scaled rows, float64, in the form they came in."""
        if isinstance(rows, np.ndarray):
            return (rows - self.shift) / self.scale
        scaled: Matrix = csr_array((rows.data / self.scale[rows.indices], rows.indices, rows.indptr), shape=rows.shape)
        if len(busy := np.flatnonzero(self.shift)):
            scaled = scaled + self._zeros(busy, rows.shape)
        offset = np.int32 if scaled.nnz <= np.iinfo(np.int32).max else np.int64  # liblinear takes 32 bits alone
        return csr_array((scaled.data, scaled.indices.astype(np.int32), scaled.indptr.astype(offset)), shape=rows.shape)

    def _zeros(self, busy: np.ndarray, shape: tuple[int, int]) -> csr_array:
        """What a row of zeros becomes, as many times as there are rows."""
        values = (-self.shift / self.scale)[busy]
        places = np.arange(shape[0] + 1) * len(busy)
        return csr_array((np.tile(values, shape[0]), np.tile(busy, shape[0]), places), shape=shape)

    def unscaled(self, weights: np.ndarray, intercept: float) -> tuple[np.ndarray, float]:
        """Weights and intercept on raw columns of those on scaled ones."""
        weights = weights / self.scale
        return weights, intercept - float(weights @ self.shift)


def scaling_of(rows: Matrix) -> Scaling:
    """The scaling that training rows ask for."""
    if not issparse(rows):
        spread = rows.std(axis=0, dtype=np.float64)
        constant = spread <= 1e-12 * np.maximum(1.0, np.abs(rows).max(axis=0, initial=0))
        return Scaling(rows.mean(axis=0, dtype=np.float64), np.where(constant, np.inf, spread))
    largest = np.zeros(rows.shape[1])
    np.maximum.at(largest, rows.indices, np.abs(rows.data))
    active = np.bincount(rows.indices, rows.data != 0, minlength=rows.shape[1])
    sums = np.bincount(rows.indices, rows.data, minlength=rows.shape[1])
    shift = np.where(active > BUSY * rows.shape[0], sums / max(1, rows.shape[0]), 0.0)
    return Scaling(shift, np.where(largest > 0, largest, np.inf))
