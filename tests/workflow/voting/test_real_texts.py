"""Votes on real reasoning: four models' solutions of GSM8K, whose published verdicts are known."""

import json
import os
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from small_votes import BOOTSTRAP, SETTINGS, WHERE, trace

from workflow.answers import final_answer, final_gold
from workflow.formats.traces import write_traces
from workflow.numbers import legacy_last_number
from workflow.voting.voting import vote


@pytest.fixture(scope="module")
def solutions() -> list[tuple[str, list[str], list[bool]]]:
    """Gold answer, four solutions and their verdicts, of each of the 1319 problems."""
    folder = os.environ.get("SAEDRIFT_GSM8K")
    if not folder:
        pytest.skip("SAEDRIFT_GSM8K does not name a folder holding example_model_solutions.jsonl of openai/grade-school-math")
    found = []
    for line in (Path(folder) / "example_model_solutions.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        written = [value for value in row.values() if isinstance(value, dict)]
        gold = row["ground_truth"].rpartition("A:")[2].strip()
        found.append((gold, [each["solution"] for each in written], [each["is_correct"] for each in written]))
    return found


def test_answers_are_read_as_the_published_verdicts_say(solutions: list) -> None:
    agree, legacy = 0, 0
    for gold, texts, verdicts in solutions:
        for text, verdict in zip(texts, verdicts, strict=True):
            agree += (final_answer(text) == final_gold(gold)) == verdict
            last = legacy_last_number(text)
            legacy += (last is not None and abs(float(last) - float(gold.replace(",", ""))) < 1e-3) == verdict
    assert agree == 5276
    assert legacy < 5276


def test_votes_of_four_models_are_those_of_counting_their_answers(solutions: list, tmp_path: Path) -> None:
    traces = [
        trace("test", rank, sample, text, gold)
        for rank, (gold, texts, _) in enumerate(solutions)
        for sample, text in enumerate(texts)
    ]
    write_traces(tmp_path / "traces.parquet", traces)
    found = vote(traces=tmp_path / "traces.parquet", scores=None, problems=None, **WHERE, settings=SETTINGS, bootstrap=BOOTSTRAP)
    voting = found["voting"].to_pandas().set_index("scheme")
    verdicts = np.array([verdicts for _, _, verdicts in solutions])
    assert voting.loc["oracle", "accuracy"] == pytest.approx(verdicts.any(axis=1).mean())
    assert voting.loc["majority", "one"] == pytest.approx(verdicts.mean())
    shares = []
    for gold, texts, _ in solutions:
        votes = Counter(Fraction(answer) for answer in map(final_answer, texts) if answer)
        tied = [answer for answer, count in votes.items() if count == max(votes.values())]
        shares.append(sum(answer == Fraction(final_gold(gold) or "0") for answer in tied) / len(tied) if tied else 0)
    assert voting.loc["majority", "accuracy"] == pytest.approx(np.mean(shares))
    assert voting.loc["majority", "accuracy"] > verdicts.mean()
