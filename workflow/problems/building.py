"""The table of problems from the rows of a source."""

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workflow.answers import gold_answer
from workflow.config.problems import ProblemsConfig
from workflow.config.section import ConfigError
from workflow.formats.files import file_digest
from workflow.formats.manifest import write_manifest
from workflow.formats.problems import Problem, write_problems
from workflow.problems.sources import read_source
from workflow.problems.splitting import Candidate, near_duplicates, split_problems
from workflow.templates import fill

log = logging.getLogger(__name__)


def build_problems(
    *, settings: ProblemsConfig, problems: Path | str, manifest: Path | str, source: Path | str | None = None
) -> dict:
    """Write problems.parquet and its manifest; return the facts for provenance.

    Args:
        source: where the file of problems.source lies, if it is one.

    Raises:
        ConfigError: the source, a template, the splits or the mixture do not fit; see the modules of this room.
    """
    rows, facts = read_source(settings, Path(source) if source else None)
    candidates = [candidate_of(row, number, settings) for number, row in enumerate(rows, start=1)]
    distinct, conflicts = distinct_questions(candidates)
    table = split_problems(distinct, settings)
    write_problems(problems, table)
    write_manifest(manifest, "problems", **summary(table), digest=file_digest(problems))
    facts |= {"rows": len(rows), "repeated_questions": len(rows) - len(distinct), "conflicting_answers": conflicts}
    log.info("%d rows, %d distinct problems, %s", len(rows), len(table), dict(Counter(problem.split for problem in table)))
    return facts


def candidate_of(row: Mapping[str, Any], number: int, settings: ProblemsConfig) -> Candidate:
    """What the templates make of the `number`-th row; its own fields come before those of its metadata.

    Raises:
        ConfigError: a template names a field that the row lacks, or question or answer come out empty.
    """
    metadata = row.get("metadata")
    known = {**(metadata if isinstance(metadata, Mapping) else {}), **row}
    fields = {name: "" if value is None else value for name, value in known.items()}

    def filled(key: str) -> str | None:
        template = getattr(settings, key)
        return None if template is None else fill(template, fields, f"problems.{key} (row {number})")

    question, answer = (filled("question") or "").strip(), gold_answer(filled("answer") or "")
    for name, text in (("question", question), ("answer", answer)):
        if not text:
            raise ConfigError(
                f"Every problem must have a question and an answer; the {name} of row {number} is empty. "
                f"Correct the row or the template problems.{name} = {getattr(settings, name)!r}."
            )
    return Candidate(question, answer, (filled("solution") or "").strip() or None, filled("stratum") or "")


def distinct_questions(candidates: Sequence[Candidate]) -> tuple[list[Candidate], int]:
    """The first candidate of every question, and how many questions came with different answers."""
    first: dict[str, Candidate] = {}
    answers: dict[str, set[str]] = defaultdict(set)
    for candidate in candidates:
        first.setdefault(candidate.question, candidate)
        answers[candidate.question].add(candidate.answer)
    conflicts = [question for question, given in answers.items() if len(given) > 1]
    if conflicts:
        log.warning("%d questions have different answers in the source, the first is kept; one: %r", len(conflicts), conflicts[0])
    return list(first.values()), len(conflicts)


def summary(problems: Sequence[Problem]) -> dict[str, Any]:
    """What the manifest says of the table: counts by split and stratum, near-duplicates, solutions."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for problem in problems:
        counts[problem.split][problem.stratum] += 1
    return {
        "problems": len(problems),
        "counts": {split: dict(strata) for split, strata in counts.items()},
        "near_duplicates": near_duplicates(problems),
        "with_solution": sum(problem.solution is not None for problem in problems),
    }
