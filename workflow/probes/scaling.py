"""Columns brought to one scale by training rows alone: dense ones standardised, sparse ones divided by their largest size."""

from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_array, issparse

Matrix = Any
"""[row, column], an np.ndarray or a csr_array; the stubs of scipy do not go with those of numpy."""


class Scaling(NamedTuple):
    """x ↦ (x − shift) / scale; a column that is constant in training becomes 0 in a dense set and stays 0 in a sparse one."""

    shift: np.ndarray | None
    """[width]; None for sparse columns, whose zeros stay."""
    scale: np.ndarray
    """[width], above 0."""

    def __call__(self, rows: Matrix) -> Matrix:
        """Scaled rows, float64, in the form they came in."""
        if isinstance(rows, np.ndarray):
            shift = 0.0 if self.shift is None else self.shift
            return (rows - shift) / self.scale
        data = rows.data / self.scale[rows.indices]
        offset = np.int32 if rows.nnz <= np.iinfo(np.int32).max else np.int64  # liblinear takes 32 bits alone
        return csr_array((data, rows.indices.astype(np.int32), rows.indptr.astype(offset)), shape=rows.shape)

    def unscaled(self, weights: np.ndarray, intercept: float) -> tuple[np.ndarray, float]:
        """Weights and intercept on raw columns of those on scaled ones."""
        weights = weights / self.scale
        return weights, intercept if self.shift is None else intercept - float(weights @ self.shift)


def scaling_of(rows: Matrix) -> Scaling:
    """The scaling that training rows ask for."""
    if not issparse(rows):
        spread = rows.std(axis=0, dtype=np.float64)
        constant = spread <= 1e-12 * np.maximum(1.0, np.abs(rows).max(axis=0, initial=0))
        return Scaling(rows.mean(axis=0, dtype=np.float64), np.where(constant, np.inf, spread))
    largest = np.zeros(rows.shape[1])
    np.maximum.at(largest, rows.indices, np.abs(rows.data))
    return Scaling(None, np.where(largest > 0, largest, np.inf))
