"""Votes on subsets of a pool: exact forms equal enumeration, equal weights are majority, nothing beats the oracle."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from workflow.voting.ballots import best_accuracy, oracle_accuracy, subsets, vote_accuracy, winners

N, ANSWERS = 6, 4
SHAPE = (3, N)
BALLOTS = arrays(np.int64, SHAPE, elements=st.integers(-1, ANSWERS - 1))
WEIGHTS = arrays(np.float64, SHAPE, elements=st.floats(-5, 5))
RIGHT = arrays(np.int64, 3, elements=st.integers(0, ANSWERS)).map(lambda answers: answers[:, None] == np.arange(ANSWERS))
K = st.integers(1, N)


def right_traces(ballots: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.take_along_axis(right, np.maximum(ballots, 0), axis=1) & (ballots >= 0)


def every_subset(k: int) -> np.ndarray:
    return np.array([[place in chosen for place in range(N)] for chosen in combinations(range(N), k)])


@given(BALLOTS, RIGHT, WEIGHTS, K)
@settings(max_examples=60)
def test_a_vote_is_what_counting_by_hand_gives(ballots: np.ndarray, right: np.ndarray, weights: np.ndarray, k: int) -> None:
    weights = np.round(weights)  # ties are ties, and nothing else is nearly one
    expected = []
    for row, good, weight in zip(ballots, right, weights, strict=True):
        won = []
        for chosen in combinations(range(N), k):
            totals = {answer: sum(np.exp(weight[i]) for i in chosen if row[i] == answer) for answer in row[list(chosen)]}
            totals.pop(-1, None)
            tied = [answer for answer in totals if totals[answer] >= max(totals.values()) * (1 - 1e-9)]
            won.append(np.mean([good[answer] for answer in tied]) if tied else 0)
        expected.append(np.mean(won))
    np.testing.assert_allclose(vote_accuracy(ballots, right, weights, every_subset(k)), expected)


@given(BALLOTS, RIGHT, WEIGHTS, K)
@settings(max_examples=60)
def test_the_best_trace_and_pass_at_k_in_closed_form_equal_enumeration(
    ballots: np.ndarray, right: np.ndarray, weights: np.ndarray, k: int
) -> None:
    weights = np.round(weights)
    good = right_traces(ballots, right)
    best, passed = [], []
    for row, one, weight in zip(ballots, good, weights, strict=True):
        chosen = list(combinations(range(N), k))
        best.append(np.mean([one[min(each, key=lambda i: (row[i] < 0, -weight[i], i))] for each in chosen]))
        passed.append(np.mean([one[list(each)].any() for each in chosen]))
    np.testing.assert_allclose(best_accuracy(ballots, good, weights, k), best, atol=1e-12)
    np.testing.assert_allclose(oracle_accuracy(good, k), passed, atol=1e-12)


@given(BALLOTS, RIGHT, WEIGHTS, K)
@settings(max_examples=60)
def test_no_scheme_is_right_more_often_than_the_oracle(ballots: np.ndarray, right: np.ndarray, weights: np.ndarray, k: int) -> None:
    good = right_traces(ballots, right)
    oracle = oracle_accuracy(good, k) + 1e-12
    assert (vote_accuracy(ballots, right, weights, every_subset(k)) <= oracle).all()
    assert (best_accuracy(ballots, good, weights, k) <= oracle).all()


@given(BALLOTS, RIGHT, WEIGHTS, st.floats(-300, 300))
@settings(max_examples=60)
def test_equal_weights_are_majority_whatever_they_are(
    ballots: np.ndarray, right: np.ndarray, weights: np.ndarray, level: float
) -> None:
    members = every_subset(4)
    majority = vote_accuracy(ballots, right, np.zeros(SHAPE), members)
    np.testing.assert_array_equal(vote_accuracy(ballots, right, np.full(SHAPE, level), members), majority)
    near = vote_accuracy(ballots, right, weights + level, members)
    np.testing.assert_allclose(near, vote_accuracy(ballots, right, weights, members))


@given(BALLOTS, RIGHT, WEIGHTS)
@settings(max_examples=60)
def test_of_one_trace_every_scheme_has_its_accuracy(ballots: np.ndarray, right: np.ndarray, weights: np.ndarray) -> None:
    good = right_traces(ballots, right)
    for found in (
        vote_accuracy(ballots, right, weights, every_subset(1)), best_accuracy(ballots, good, weights, 1), oracle_accuracy(good, 1),
    ):  # fmt: skip
        np.testing.assert_allclose(found, good.mean(axis=1), atol=1e-12)


def test_subsets_are_all_there_are_or_so_many_of_them_and_always_the_same() -> None:
    few, many = subsets(6, 2, 20, 0), subsets(20, 5, 300, 0)
    assert (few.how, len(few.members), len(np.unique(few.members, axis=0))) == ("enumerated", 15, 15)
    assert (many.how, many.members.shape) == ("sampled", (300, 20))
    assert (many.members.sum(axis=1) == 5).all()
    np.testing.assert_array_equal(many.members, subsets(20, 5, 300, 0).members)
    assert (many.members != subsets(20, 5, 300, 1).members).any()


def test_drawn_subsets_are_without_bias() -> None:
    members = subsets(12, 4, 400, 0).members
    assert abs(members.mean(axis=0) - 4 / 12).max() < 5 * np.sqrt(4 / 12 * 8 / 12 / 400)
    draw = np.random.default_rng(0)
    ballots, right = draw.integers(-1, 3, size=(40, 12)), np.eye(3, dtype=bool)[np.zeros(40, dtype=int)]
    every = np.array([[i in chosen for i in range(12)] for chosen in combinations(range(12), 4)])
    drawn, exact = (vote_accuracy(ballots, right, np.zeros(ballots.shape), each).mean() for each in (members, every))
    assert drawn == pytest.approx(exact, abs=0.02)


def test_problems_are_counted_a_few_at_a_time_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(1)
    ballots, weights = draw.integers(-1, 4, size=(30, N)), draw.standard_normal((30, N))
    right = np.eye(4, dtype=bool)[draw.integers(4, size=30)]
    whole = vote_accuracy(ballots, right, weights, every_subset(3))
    monkeypatch.setattr("workflow.voting.ballots.VALUES", 200)
    np.testing.assert_array_equal(vote_accuracy(ballots, right, weights, every_subset(3)), whole)


def test_of_tied_answers_one_wins_and_an_accuracy_shares_the_vote_out() -> None:
    ballots, right = np.array([[1, 0, -1], [2, 2, 0], [-1, -1, -1]]), np.eye(3, dtype=bool)[[1, 2, 0]]
    level, whole = np.zeros((3, 3)), np.ones((1, 3), dtype=bool)
    assert winners(ballots, 3, level).tolist() == [0, 2, -1]
    assert vote_accuracy(ballots, right, level, whole).tolist() == [0.5, 1, 0]
    nearly = np.log(np.array([[0.1 + 0.2, 0.3, 1], [1, 1, 1], [1, 1, 1]]))
    assert vote_accuracy(ballots, right, nearly, whole)[0] == 0.5


def test_majority_of_two_is_as_good_as_one_trace() -> None:
    draw = np.random.default_rng(0)
    ballots, right = draw.integers(0, 4, size=(50, N)), np.eye(4, dtype=bool)[draw.integers(4, size=50)]
    two = vote_accuracy(ballots, right, np.zeros(ballots.shape), every_subset(2))
    np.testing.assert_allclose(two, right_traces(ballots, right).mean(axis=1), atol=1e-12)
