"""Votes on whole pools: what the tables say of planted answers and scores."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_votes import BOOTSTRAP, SETTINGS, WHERE, noisy_pool, probe_rows, write_pool, write_scores

from workflow.config.section import ConfigError
from workflow.fingerprint import ROOT
from workflow.formats.drift_columns import schema
from workflow.formats.traces import Trace, write_traces
from workflow.formats.voting_columns import VOTING_TABLES
from workflow.frames import Table
from workflow.voting.comparing import holm, mcnemar
from workflow.voting.vote_files import main
from workflow.voting.voting import vote


def tables(folder: Path, scores: Path | None = None, problems: Path | None = None, **settings: Any) -> dict[str, Table]:
    found = vote(
        traces=folder / "traces.parquet", scores=scores, problems=problems, **WHERE, settings=SETTINGS | settings,
        bootstrap=BOOTSTRAP,
    )  # fmt: skip
    assert {name: table.schema for name, table in found.items()} == {name: schema(kind) for name, kind in VOTING_TABLES.items()}
    return {name: table.to_pandas() for name, table in found.items()}


def one(frame: Table, **values: Any) -> Any:
    for name, value in values.items():
        frame = frame[frame[name] == value]
    (row,) = frame.to_dict("records")
    return row


def planted(traces: list[Trace], lift: float, seed: int = 0, features: str = "dense.last") -> pa.Table:
    """Scores that are higher on right traces by `lift` on average."""
    draw = np.random.default_rng(seed)
    p = {
        each.trace: list(np.clip(0.5 + lift * (each.flexible - 0.5) + 0.1 * draw.standard_normal(2), 0.01, 0.99)) for each in traces
    }
    return probe_rows(traces, p, features)


def test_values_vote_together_and_strings_do_not(tmp_path: Path) -> None:
    dressed = ["#### 1,234", "it is 1234.0", "#### 99", "#### 99", "#### $1234", "hm"]
    write_pool(tmp_path / "traces.parquet", {"test": [dressed, dressed]}, gold="1,234")
    found = tables(tmp_path)
    assert one(found["voting"], scheme="majority")["accuracy"] == 1
    assert one(found["voting"], scheme="published_majority")["accuracy"] == 0
    answers = found["answers"][found["answers"]["problem"] == "test0000"]
    assert list(answers["answer"].fillna("-")) == ["1234", "1234", "99", "99", "1234", "-"]
    assert list(answers["right"]) == [True, True, False, False, True, False]
    assert set(answers["gold"]) == {"1234"}
    assert one(found["voting"], scheme="majority")["unparsed"] == 2


def test_without_probes_all_other_schemes_are_there_and_the_oracle_leads(tmp_path: Path) -> None:
    noisy_pool(tmp_path / "traces.parquet")
    found = tables(tmp_path)
    voting, curves = found["voting"], found["voting_curves"]
    assert list(voting["scheme"]) == [
        "majority", "length", "brevity", "confidence", "probability", "random", "oracle", "published_majority",
    ]  # fmt: skip
    assert voting["headline"].all()
    assert (voting["k"] == 8).all()
    assert found["voting_tuning"].empty
    for k, rows in curves.groupby("k"):
        assert (rows["accuracy"] <= one(rows, scheme="oracle")["accuracy"] + 1e-12).all()
        assert one(rows, scheme="oracle")["how"] == "exact"
        assert set(rows["how"]) == {"exact", "sampled" if k == 4 else "enumerated"}
        assert one(rows, scheme="majority")["subsets"] == {1: 8, 2: 28, 4: 64, 8: 1}[k]
    mean = voting["one"].iloc[0]
    np.testing.assert_allclose(curves[curves["k"] == 1]["accuracy"], mean, atol=1e-12)
    assert one(curves, scheme="majority", k=8)["accuracy"] > mean
    assert ((voting["accuracy_low"] <= voting["accuracy"]) & (voting["accuracy"] <= voting["accuracy_high"])).all()


def test_scores_that_know_the_answer_lift_votes_and_the_tests_say_so(tmp_path: Path) -> None:
    traces = noisy_pool(tmp_path / "traces.parquet", share=0.4)
    scores = write_scores(tmp_path / "scores.parquet", planted(traces, 0.6), planted(traces, 0.0, features="sae.topk.max"))
    found = tables(tmp_path, scores, flips=999)
    good, idle = one(found["voting"], scheme="probe_vote", features="dense.last"), one(
        found["voting"], scheme="probe_best", features="sae.topk.max"
    )  # fmt: skip
    assert good["over_majority_low"] > 0
    assert good["tuned"]
    assert (good["family"], good["layer"], good["unscored"]) == ("dense", 1, 0)
    assert idle["over_majority_low"] <= 0
    test = one(found["voting_tests"], scheme="probe_vote", features="dense.last")
    assert test["p"] <= test["q"] <= test["holm"] < 0.05
    assert test["mcnemar_p"] < 0.05
    assert test["right_right"] + test["right_wrong"] + test["wrong_right"] + test["wrong_wrong"] == 40
    assert one(found["voting"], scheme="probe_best", features="dense.last")["accuracy"] == one(
        found["voting"], scheme="oracle"
    )["accuracy"]  # fmt: skip
    assert set(found["voting_tests"]["scheme"]).isdisjoint({"majority", "oracle", "published_majority"})
    assert (found["voting_tests"]["tests"] == len(found["voting_tests"])).all()


def test_permuted_scores_do_not_beat_majority(tmp_path: Path) -> None:
    traces = noisy_pool(tmp_path / "traces.parquet", problems=60, seed=3)
    rows = planted(traces, 0.6).to_pandas()
    permuted = rows.assign(p=np.random.default_rng(0).permutation(rows["p"]))
    scores = write_scores(tmp_path / "scores.parquet", pa.Table.from_pandas(permuted, preserve_index=False))
    found = tables(tmp_path, scores)
    for scheme in ("probe_vote", "probe_best", "probe_published"):
        assert one(found["voting"], scheme=scheme)["over_majority_low"] <= 0
    assert one(found["voting_tests"], scheme="probe_vote")["p"] > 0.05


def test_equal_scores_are_majority(tmp_path: Path) -> None:
    traces = noisy_pool(tmp_path / "traces.parquet")
    scores = write_scores(tmp_path / "scores.parquet", probe_rows(traces, {each.trace: [0.3, 0.3] for each in traces}))
    found = tables(tmp_path, scores)
    curves = found["voting_curves"]
    for scheme in ("probe_vote", "probe_published"):
        for k in (1, 2, 4, 8):
            assert one(curves, scheme=scheme, k=k)["accuracy"] == one(curves, scheme="majority", k=k)["accuracy"]
    assert one(found["voting"], scheme="published_vote")["over_majority"] == 0


def test_the_choice_is_made_on_development_problems_alone(tmp_path: Path) -> None:
    traces = noisy_pool(tmp_path / "traces.parquet")
    draw = np.random.default_rng(0)
    # the last step tells the answer of development problems, the first step that of reported ones
    p = {}
    for each in traces:
        told, noise = (0.95 if each.flexible else 0.05), float(draw.choice([0.05, 0.95]))
        p[each.trace] = [noise, told] if each.split == "val" else [told, noise]
    found = tables(tmp_path, write_scores(tmp_path / "scores.parquet", probe_rows(traces, p)))
    tuning = found["voting_tuning"]
    chosen = tuning[tuning["chosen"]]
    assert list(chosen["scheme"]) == ["probe_vote", "probe_best"]
    assert set(chosen["aggregation"]) == {"last"}
    assert len(tuning) == 4 * 2 + 4
    assert (tuning.groupby("scheme")["accuracy"].max() == chosen.set_index("scheme")["accuracy"].sort_index()).all()
    assert (found["voting"].set_index("scheme").loc[chosen["scheme"], "aggregation"] == "last").all()


def test_without_development_problems_nothing_is_chosen_and_the_table_says_so(tmp_path: Path) -> None:
    traces = [each for each in noisy_pool(tmp_path / "all.parquet") if each.split == "test"]
    write_traces(tmp_path / "traces.parquet", traces)
    found = tables(tmp_path, write_scores(tmp_path / "scores.parquet", planted(traces, 0.5)))
    row = one(found["voting"], scheme="probe_vote")
    assert (row["tuned"], row["aggregation"], row["tau"], row["headline"]) == (False, "mean", 0.8, False)


def test_of_every_family_the_best_probe_on_development_problems_is_told_first(tmp_path: Path) -> None:
    traces = noisy_pool(tmp_path / "traces.parquet")
    lifts = {"dense.last": 0.1, "dense.mean": 0.6, "sae.topk.max": 0.05, "ssae.codes": 0.3, "surface": 0.0}
    parts = [planted(traces, lift, seed, name) for seed, (name, lift) in enumerate(lifts.items())]
    found = tables(tmp_path, write_scores(tmp_path / "scores.parquet", *parts))
    rows = found["voting"][found["voting"]["scheme"] == "probe_vote"]
    assert dict(zip(rows["features"], rows["headline"], strict=True)) == {name: name != "dense.last" for name in lifts}
    tests = found["voting_tests"]
    assert tests["headline_tests"].iloc[0] == tests["headline"].sum()
    assert (tests["holm"].notna() == tests["headline"]).all()


def test_missing_scores_are_told(tmp_path: Path) -> None:
    traces = noisy_pool(tmp_path / "traces.parquet")
    p: dict[str, list] = {each.trace: [0.5, 0.6] for each in traces}
    reported = [each.trace for each in traces if each.split == "test"]
    p[reported[0]], p[reported[1]], p[reported[2]] = [None, float("nan")], [0.4], [None, 0.5]
    row = one(tables(tmp_path, write_scores(tmp_path / "scores.parquet", probe_rows(traces, p)))["voting"], scheme="probe_vote")
    assert (row["unscored"], row["partly_scored"]) == (1, 2)


def test_probes_of_other_tasks_and_features_are_left_out(tmp_path: Path) -> None:
    traces = noisy_pool(tmp_path / "traces.parquet", problems=10)
    p: dict[str, list] = {each.trace: [0.5, 0.6] for each in traces}
    parts = [probe_rows(traces, p, features, task) for features in ("dense.last", "surface") for task in ("correct", "logical")]
    found = tables(tmp_path, write_scores(tmp_path / "scores.parquet", *parts), features=["surface"])
    rows = found["voting"].dropna(subset="task")
    assert set(zip(rows["features"], rows["task"], strict=True)) == {("surface", "correct")}
    nothing = write_scores(tmp_path / "nothing.parquet", probe_rows(traces, p, "none"))
    assert (tables(tmp_path, nothing)["voting"]["probes"] == 0).all()


def test_a_problem_in_both_splits_is_refused(tmp_path: Path) -> None:
    traces = write_pool(tmp_path / "traces.parquet", {"val": [["7", "8"]] * 3, "test": [["7", "8"]] * 3})
    table = pq.read_table(tmp_path / "traces.parquet")
    same = pa.array([name.replace("val", "test") for name in table["problem"].to_pylist()])
    pq.write_table(table.set_column(table.column_names.index("problem"), "problem", same), tmp_path / "traces.parquet")
    with pytest.raises(ConfigError, match=r"A problem must be in one split.*test0000 of .* is in val and test"):
        tables(tmp_path)
    assert len(traces) == 12


@pytest.mark.parametrize(
    ("responses", "settings", "message"),
    [
        ({"val": [["7"]]}, {}, "must hold traces of the split test"),
        ({"test": [["7", "8"], ["7"]]}, {}, "as many traces as the others; .* test0001 has 1, test0000 2"),
        ({"test": [["7", "8"]] * 2}, {"k": 3}, "voting.k must be at most the traces per problem; got 3, the pool has 2"),
        ({"test": [["7", "8"]]}, {}, "at least 2 prompts"),
    ],
)
def test_pools_that_cannot_be_voted_on_are_refused(tmp_path: Path, responses: dict, settings: dict, message: str) -> None:
    write_pool(tmp_path / "traces.parquet", responses)
    with pytest.raises(ConfigError, match=message):
        tables(tmp_path, **settings)


def test_intervals_are_by_group_of_near_duplicates(tmp_path: Path) -> None:
    texts = [["7", "7"], ["8", "8"]] * 10
    write_pool(tmp_path / "traces.parquet", {"test": texts})
    names = [f"test{rank:04d}" for rank in range(20)]
    for file, groups in (("alike", ["a"] * 10 + ["b"] * 10), ("apart", names)):
        pq.write_table(pa.table({"problem": names, "group": groups}), tmp_path / f"{file}.parquet")
    alike, apart = (one(tables(tmp_path, None, tmp_path / f"{f}.parquet")["voting"], scheme="majority") for f in ("alike", "apart"))
    assert (alike["groups"], apart["groups"]) == (2, 20)
    assert alike["accuracy_low"] == alike["accuracy_high"] == 0.5
    assert apart["accuracy_low"] < 0.5 < apart["accuracy_high"]


def test_the_same_inputs_give_the_same_tables(tmp_path: Path) -> None:
    traces = noisy_pool(tmp_path / "traces.parquet", problems=8)
    scores = write_scores(tmp_path / "scores.parquet", planted(traces, 0.3))
    for name, table in tables(tmp_path, scores).items():
        assert table.equals(tables(tmp_path, scores)[name])


def test_adjusted_p_values_and_mcnemar_are_those_of_the_books() -> None:
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    before, after = np.array([1, 1, 1, 0, 0, 0, 0, 0, 0], bool), np.array([1, 1, 0, 1, 1, 1, 1, 1, 0], bool)
    assert mcnemar(before, after) == (2, 1, 5, 1, pytest.approx(0.21875))
    assert mcnemar(before, before).mcnemar_p is None


def test_files_of_your_own_are_voted_on_from_the_command_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    traces = noisy_pool(tmp_path / "traces.parquet", problems=10)
    scores = write_scores(tmp_path / "scores.parquet", planted(traces, 0.6))
    words = [str(tmp_path / "traces.parquet"), "--scores", str(scores), "--out", str(tmp_path / "out"), "--replicates", "100"]
    assert main([*words, "--set", "k=4 flips=99 max_subsets=32"]) == 0
    for name, kind in VOTING_TABLES.items():
        table = pq.read_table(tmp_path / "out" / f"{name}.parquet")
        assert table.schema.names == schema(kind).names
        assert len((tmp_path / "out" / f"{name}.csv").read_text().splitlines()) == len(table) + 1
    assert set(pq.read_table(tmp_path / "out" / "voting.parquet")["k"].to_pylist()) == {4, 8}
    assert main([*words, "--set", "tau=3"]) == 1
    assert "Did you mean taus?" in caplog.text
    assert main([*words, "--set", "k=99"]) == 1
    assert "voting.k must be at most" in caplog.text


def test_the_docs_name_every_column() -> None:
    text = (ROOT / "docs/voting.md").read_text(encoding="utf-8")
    assert [name for table in VOTING_TABLES.values() for name in table._fields if f"`{name}`" not in text] == []
