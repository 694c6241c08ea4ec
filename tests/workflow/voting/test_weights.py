"""Weights of traces: formulas, missing scores, and refusals of scores that are of something else."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_votes import probe_rows, write_pool

from workflow.config.section import ConfigError
from workflow.frames import Table
from workflow.voting.pool import Pool, read_pools
from workflow.voting.published import legacy_right, legacy_vote, published_votes
from workflow.voting.weights import plain_weights, step_scores

TEXTS = [["#### 7", "#### 7.0"], ["#### 1,234", "no idea"], ["#### 8", "#### 7"]]
P = [[[0.9, 0.5], [0.2, 0.4]], [[1.0, 0.0], [0.3, 0.3]], [[0.6, 0.7], [0.8, 0.1]]]


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    write_pool(tmp_path / "traces.parquet", {"test": TEXTS})
    return read_pools(tmp_path / "traces.parquet")["test"]


def scored(pool: Pool, p: list) -> Table:
    rows = [
        (trace, step, value)
        for trace, values in zip(pool.traces["trace"], [each for problem in p for each in problem], strict=True)
        for step, value in enumerate(values)
    ]
    return pd.DataFrame(rows, columns=["trace", "step", "p"]).astype({"p": np.float32})


def test_the_weight_of_a_trace_is_the_stated_function_of_the_scores_of_its_steps(pool: Pool) -> None:
    scores = step_scores(pool, scored(pool, P).sample(frac=1, random_state=0), "probe")
    p = np.maximum(np.array(P), 1e-30)
    assert scores is not None
    for tau in (0.8, 3.0):
        expected = {
            "mean": (p**tau).mean(axis=2), "min": p.min(axis=2) ** tau, "product": p.prod(axis=2) ** tau, "last": p[..., 1] ** tau,
        }  # fmt: skip
        for aggregation, weights in expected.items():
            found = scores.log_weights(aggregation, tau)
            np.testing.assert_allclose(found, np.log(weights), rtol=1e-4)


def test_a_product_over_many_steps_does_not_vanish(tmp_path: Path) -> None:
    traces = write_pool(tmp_path / "traces.parquet", {"test": [["#### 7", "#### 8"]]}, steps=400)
    pool = read_pools(tmp_path / "traces.parquet")["test"]
    rows = probe_rows(traces, {traces[0].trace: [0.06] * 400, traces[1].trace: [0.05] * 400}).to_pandas()
    scores = step_scores(pool, rows, "probe")
    assert scores is not None
    for aggregation in ("product", "mean"):
        weights = scores.log_weights(aggregation, 8.0)
        assert np.isfinite(weights).all()
        assert weights[0, 0] > weights[0, 1]


def test_missing_scores_are_left_out_counted_and_weigh_like_the_others(pool: Pool) -> None:
    frame = scored(pool, P)
    frame.loc[frame.index[[1, 2, 3]], "p"] = np.nan  # the last step of the first trace, all of the second
    frame = frame.drop(index=4)  # and the first step of the third is not there at all
    scores = step_scores(pool, frame, "probe")
    assert scores is not None
    assert (scores.unscored, scores.partly) == (1, 2)
    weights = np.exp(scores.log_weights("mean", 1.0)).ravel()
    known = [0.9, 1e-30, 0.3, 0.65, 0.45]
    np.testing.assert_allclose(weights[[0, 2, 3, 4, 5]], known, rtol=1e-5)
    np.testing.assert_allclose(weights[1], np.mean(known), rtol=1e-5)


def test_a_probe_without_any_score_is_none(pool: Pool) -> None:
    frame = scored(pool, P).assign(p=np.float32(np.nan))
    assert step_scores(pool, frame, "probe") is None
    assert step_scores(pool, frame.iloc[:0], "probe") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trace": "other/base/0"}, "one of step 0 of trace other/base/0, which is not there"),
        ({"step": 2}, "one of step 2 of trace"),
        ({"p": 1.5}, "probabilities between 0 and 1; of probe there is 1.5"),
        ({"step": 1}, "scores steps twice"),
    ],
)
def test_scores_of_something_else_are_refused(pool: Pool, change: dict, message: str) -> None:
    frame = scored(pool, P)
    for column, value in change.items():
        frame.loc[0, column] = value
    with pytest.raises(ConfigError, match=message):
        step_scores(pool, frame, "probe")


def test_weights_without_a_probe_are_those_of_tokens_and_log_probabilities(tmp_path: Path) -> None:
    write_pool(tmp_path / "traces.parquet", {"test": TEXTS}, steps=4, token=-0.25)
    pool = read_pools(tmp_path / "traces.parquet")["test"]
    found = plain_weights(pool, 0)
    expected = {"majority": 0, "length": np.log(4), "brevity": -np.log(4), "confidence": -0.25, "probability": -1}
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], np.full((3, 2), value), atol=1e-6)
    assert (np.exp(found["random"]) <= 1).all()
    np.testing.assert_array_equal(found["random"], plain_weights(pool, 0)["random"])
    assert (found["random"] != plain_weights(pool, 1)["random"]).all()


def test_without_log_probabilities_there_are_no_weights_of_them(pool: Pool) -> None:
    pool.traces.loc[0, "log_probability"] = np.nan
    assert set(plain_weights(pool, 0)) == {"majority", "length", "brevity", "random"}


def test_votes_as_published_count_strings_and_the_first_seen_wins() -> None:
    assert legacy_vote(["18", "18.0", "17", "17"], [1, 1, 1, 1]) == "17"
    assert legacy_vote(["18", None, "17"], [1, 9, 1]) == "18"
    assert legacy_vote(["18", "17"], [0.5, 0.7]) == "17"
    assert legacy_vote([None, None], [1, 1]) is None
    assert legacy_right("18.0005", "18")
    assert not legacy_right("5", "-5")
    assert not legacy_right(None, "18")
    assert not legacy_right("18", "yes")


def test_published_votes_read_the_first_sixteen_traces_with_their_defects(tmp_path: Path) -> None:
    thousand, three = ["1,234", "1,234", "234"], ["7", "7.0", "8", "8"]
    write_pool(tmp_path / "a.parquet", {"test": [thousand]}, gold="1234")
    write_pool(tmp_path / "b.parquet", {"test": [three]})
    write_pool(tmp_path / "c.parquet", {"test": [["7"] * 16 + ["8"] * 20]})
    found = [published_votes(read_pools(tmp_path / f"{name}.parquet")["test"], None) for name in "abc"]
    assert [(bool(right[0]), k) for right, k in found] == [(False, 3), (False, 4), (True, 16)]


def test_published_votes_are_weighed_by_the_scores_of_the_first_traces(tmp_path: Path) -> None:
    traces = write_pool(tmp_path / "traces.parquet", {"test": [["8", "7"] + ["8"] * 20]})
    pool = read_pools(tmp_path / "traces.parquet")["test"]
    p = {each.trace: [0.9, 0.9] if each.response == "7" else [0.01, 0.05] for each in traces}
    scores = step_scores(pool, probe_rows(traces, p).to_pandas(), "probe")
    assert published_votes(pool, None)[0].tolist() == [False]
    assert published_votes(pool, scores)[0].tolist() == [True]
