"""Columns on one scale: sparse ones stay sparse, those that are nearly always active are centred, weights are of raw columns."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from workflow.probes.scaling import scaling_of


def codes(seed: int, rows: int = 50) -> np.ndarray:
    """Columns that fire in about 10 %, 90 %, all and none of the rows."""
    draw = np.random.default_rng(seed)
    shares = np.array([0.1, 0.9, 1.0, 0.0])
    return (draw.random((rows, 4)) < shares) * draw.exponential(2, (rows, 4))


def test_busy_columns_are_centred_and_the_others_keep_their_zeros() -> None:
    train = codes(0)
    scaled = scaling_of(csr_array(train))(csr_array(train))
    assert scaled.toarray()[:, 1:3].mean(axis=0) == pytest.approx(0, abs=1e-12)
    assert scaled[:, [0]].nnz == np.count_nonzero(train[:, 0])
    assert scaled[:, [3]].nnz == 0
    spread = np.ptp(scaled.toarray(), axis=0)
    assert spread == pytest.approx(np.ptp(train, axis=0) / np.maximum(train.max(axis=0), 1e-9))
    assert scaled.has_canonical_format


@pytest.mark.parametrize("sparse", [True, False])
def test_weights_on_raw_columns_say_the_same_of_other_rows(sparse: bool) -> None:
    form = csr_array if sparse else np.asarray
    scaling, others = scaling_of(form(codes(0))), form(codes(1))
    weights = np.array([1.0, -2.0, 3.0, 4.0])
    raw, intercept = scaling.unscaled(weights, 0.5)
    assert others @ raw + intercept == pytest.approx(scaling(others) @ weights + 0.5)
    assert raw[3] == 0
