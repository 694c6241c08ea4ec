"""The table of problems end to end: templates, repeated questions, the embedded task, byte-identical repetition."""

import json
from pathlib import Path

import pytest

from workflow.config.problems import ProblemsConfig
from workflow.config.section import ConfigError
from workflow.formats.files import file_digest
from workflow.formats.manifest import read_manifest
from workflow.formats.problems import read_problems
from workflow.problems.building import build_problems, candidate_of, distinct_questions

EMBEDDED = ProblemsConfig(
    source="reasoning_gym:chain_sum",
    options={"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2},
    size=1500,
    question="{expression} =",
    solution="{expression} = {answer}\n#### {answer}",
    stratum="{num_digits}",
    mixture={"1": 0.5, "2": 0.5},
    splits={"warmup": 0.04, "ppo": 0.16, "train": 0.62, "val": 0.06, "test": 0.12},
)


def build(folder: Path, settings: ProblemsConfig) -> dict:
    return build_problems(settings=settings, problems=folder / "problems.parquet", manifest=folder / "manifest.json")


def test_the_embedded_task_becomes_distinct_graded_even_problems(tmp_path: Path) -> None:
    facts = build(tmp_path, EMBEDDED)
    problems = read_problems(tmp_path / "problems.parquet")
    manifest = read_manifest(tmp_path / "manifest.json", "problems")
    for problem in problems:
        a, sign, b, _ = problem.question.split()
        assert int(problem.answer) == int(a) + (int(b) if sign == "+" else -int(b))
        assert problem.solution == f"{problem.question} {problem.answer}\n#### {problem.answer}"
        assert problem.stratum == str(len(a))
    assert len({problem.question for problem in problems}) == len(problems) == manifest["problems"] == manifest["with_solution"]
    assert facts == {"rows": 1500, "repeated_questions": 1500 - len(problems), "conflicting_answers": 0}
    assert manifest["digest"] == file_digest(tmp_path / "problems.parquet")
    assert sum(sum(strata.values()) for strata in manifest["counts"].values()) == len(problems)
    assert all(set(strata) == {"1", "2"} for strata in manifest["counts"].values())
    assert manifest["near_duplicates"]["groups"] > 0


def test_the_same_settings_give_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        build(tmp_path / folder, EMBEDDED)
    for name in ("problems.parquet", "manifest.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_gsm8k_lines_need_no_templates(tmp_path: Path) -> None:
    rows = [
        {"question": f"{n} apples and {n + 2} more?", "answer": f"{n} + {n + 2}\n#### {2 * n + 2:,d}"} for n in range(990, 1030)
    ]
    path = tmp_path / "gsm8k.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    build(tmp_path, ProblemsConfig(source=str(path)))
    by_question = {problem.question: problem for problem in read_problems(tmp_path / "problems.parquet")}
    assert by_question[rows[10]["question"]].answer == "2,002"
    assert by_question[rows[10]["question"]].solution == rows[10]["answer"]


@pytest.mark.parametrize(
    ("row", "templates", "words"),
    [
        (
            {"q": "1 + 1", "answer": "2"},
            {},
            r"problems.question \(row 7\) may use only fields of the source: q, answer; got {question}",
        ),
        ({"question": " ", "answer": "2"}, {}, "the question of row 7 is empty"),
        ({"question": "1 + 1", "answer": None}, {}, "the answer of row 7 is empty"),
        ({"question": "1 + 1", "answer": "two is\n#### "}, {}, "the answer of row 7 is empty"),
        ({"question": "1", "answer": "2"}, {"stratum": "{level}"}, r"problems.stratum \(row 7\) .* got {level}"),
        ({"question": "1", "answer": "2"}, {"solution": "{answer"}, r"problems.solution \(row 7\) must be a template"),
    ],
)
def test_rows_that_templates_cannot_read_are_told_by_number(row: dict, templates: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        candidate_of(row, 7, ProblemsConfig(**templates))


def test_fields_come_from_the_row_then_from_its_metadata() -> None:
    settings = ProblemsConfig(question="{question} {level}", solution=None, stratum="{level}")
    candidate = candidate_of({"question": "1 + 1", "answer": 2, "metadata": {"question": "no", "level": 3}}, 1, settings)
    assert candidate == ("1 + 1 3", "2", None, "3")
    assert candidate_of({"question": "1", "answer": "2", "steps": None}, 1, ProblemsConfig(solution="{steps}")).solution is None


def test_the_first_of_repeated_questions_is_kept_and_conflicts_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    settings = ProblemsConfig(solution=None)
    rows = [("1 + 1", "2"), ("1 + 2", "3"), (" 1 + 1 ", "11"), ("1 + 2", "3")]
    candidates = [candidate_of({"question": question, "answer": answer}, 1, settings) for question, answer in rows]
    distinct, conflicts = distinct_questions(candidates)
    assert [(candidate.question, candidate.answer) for candidate in distinct] == rows[:2]
    assert conflicts == 1
    assert "1 questions have different answers" in caplog.text
