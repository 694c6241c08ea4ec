"""Pooling of rows and codes over the tokens of steps, beside the plainest way to do it."""

import numpy as np
import pytest
import torch

from sae_core.kernels.codes import Codes
from workflow.probes.pooling import DenseSteps, SparseSteps, Tokens

POOLING = ("last", "mean", "max")


def tokens_of_steps(seed: int, steps: int = 9) -> np.ndarray:
    """Steps of a pass, rising, some of them absent, some of one token."""
    draw = np.random.default_rng(seed)
    return np.repeat(np.arange(steps), draw.integers(0, 5, steps))


def codes_of(dense: np.ndarray, seed: int) -> Codes:
    """The codes of a dense matrix in no particular order within a row, some entries 0."""
    draw = np.random.default_rng(seed)
    offsets, latents, values = [0], [], []
    for row in dense:
        index = draw.permutation(np.flatnonzero((row != 0) | (draw.random(len(row)) < 0.2)))
        latents += index.tolist()
        values += row[index].tolist()
        offsets.append(len(latents))
    return Codes(torch.tensor(offsets), torch.tensor(latents, dtype=torch.int64), torch.tensor(values, dtype=torch.float32))


def pooled(rows: np.ndarray, steps: np.ndarray, count: int, how: str) -> np.ndarray:
    found = np.zeros((count, rows.shape[1]), np.float32)
    for step in np.unique(steps):
        own = rows[steps == step]
        largest = own[np.abs(own).argmax(0), np.arange(rows.shape[1])]
        found[step] = {"last": own[-1], "mean": own.astype(np.float64).mean(0), "max": largest}[how]
    return found


@pytest.mark.parametrize("seed", range(5))
def test_rows_are_pooled_as_they_should(seed: int) -> None:
    steps = tokens_of_steps(seed)
    rows = np.random.default_rng(seed).standard_normal((len(steps), 4)).astype(np.float32)
    block = DenseSteps(9, 4, POOLING[:2])
    block.add(torch.from_numpy(rows), Tokens(steps))
    for how, matrix in block.matrices().items():
        np.testing.assert_allclose(matrix, pooled(rows, steps, 9, how), atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_codes_are_pooled_as_they_should(seed: int) -> None:
    steps, draw = tokens_of_steps(seed), np.random.default_rng(seed)
    dense = np.where(draw.random((len(steps), 7)) < 0.4, draw.standard_normal((len(steps), 7)), 0).astype(np.float32)
    block = SparseSteps(9, 7, POOLING)
    half = int(np.searchsorted(steps, 4))
    for part in (slice(half, None), slice(0, half)):  # passes come in any order
        if len(steps[part]):
            block.add(codes_of(dense[part], seed), Tokens(steps[part]))
    for how, matrix in block.matrices().items():
        np.testing.assert_allclose(matrix.toarray(), pooled(dense, steps, 9, how), atol=1e-6)
        assert (matrix.data != 0).all()
        assert all((np.diff(matrix.indices[a:b]) > 0).all() for a, b in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True))
