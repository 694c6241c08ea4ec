"""AUROC and average precision under weightings of prompts: by their definitions, with ties, and as a bootstrap over prompts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from workflow.ranking import ranking, together
from workflow.statistics import interval, multiplicities

VALUES = st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 3)), min_size=4, max_size=40)


@given(VALUES, st.lists(st.integers(0, 3), min_size=4, max_size=4))
def test_weights_are_repetitions(rows: list[tuple[int, bool, int]], drawn: list[int]) -> None:
    """A prompt that is drawn twice counts as if its rows stood there twice; equal scores count half."""
    scores, positive, prompts = (np.array(column) for column in zip(*rows, strict=True))
    again = np.repeat(np.arange(len(rows)), np.array(drawn)[prompts])
    found = ranking(scores.astype(float), positive, prompts, np.array([drawn]))
    if len(again) and 0 < positive[again].sum() < len(again):
        assert found.auroc[0] == pytest.approx(roc_auc_score(positive[again], scores[again]))
        assert found.average_precision[0] == pytest.approx(average_precision_score(positive[again], scores[again]))
    else:
        assert np.isnan(found.auroc[0])


def test_strata_compare_within_themselves() -> None:
    """Two strata with opposite levels, the right order within each: pooled it is half, within strata all."""
    scores, positive = np.array([0.0, 1, 10, 11]), np.array([False, True, False, True])
    ones, nothing = np.ones((1, 1)), np.zeros(2, int)
    parts = [ranking(scores[at], positive[at], nothing, ones) for at in (slice(0, 2), slice(2, 4))]
    assert together(parts).auroc[0] == 1
    assert ranking(scores, positive, np.zeros(4, int), ones).auroc[0] == 0.75


def test_intervals_over_prompts_cover_the_true_value() -> None:
    """Rows of a prompt share an effect of their own; the interval must be as wide as these ask for."""
    draw, worlds, covered = np.random.default_rng(0), 120, 0
    prompts, rows = 60, 8
    truth = _clustered(np.random.default_rng(1), 20_000, rows)
    exact = ranking(truth[0], truth[1], np.zeros(len(truth[0]), int), np.ones((1, 1))).auroc[0]
    for world in range(worlds):
        scores, positive = _clustered(draw, prompts, rows)
        weights = multiplicities(prompts, 300, world)
        covered += interval(ranking(scores, positive, np.repeat(np.arange(prompts), rows), weights).auroc, 0.95).contains(exact)
    assert 0.88 <= covered / worlds <= 0.99


def _clustered(draw: np.random.Generator, prompts: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    lean, level = np.repeat(draw.beta(1, 1, prompts), rows), np.repeat(draw.standard_normal(prompts), rows)
    positive = draw.random(prompts * rows) < lean
    return positive + level + draw.standard_normal(prompts * rows), positive


def test_memory_is_cut_into_chunks_without_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    given_rows = draw.standard_normal(50), draw.random(50) < 0.5, draw.integers(0, 9, 50)
    weights = multiplicities(9, 40, 0)
    whole = ranking(*given_rows, weights)
    monkeypatch.setattr("workflow.ranking.CHUNK_VALUES", 120)
    assert all(np.array_equal(a, b) for a, b in zip(whole, ranking(*given_rows, weights), strict=True))
