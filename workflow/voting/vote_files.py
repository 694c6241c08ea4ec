"""Votes on traces and scores of your own: `python -m workflow.voting.vote_files TRACES [--scores SCORES] --out FOLDER`.

Both files have the layout of `workflow/formats/traces.py` and `workflow/formats/probe_scores.py`. The tables are those of the phase
(`workflow/formats/voting_columns.py`), each as parquet and CSV.
"""

import argparse
import logging
import sys
from pathlib import Path

from pydantic import ValidationError

from workflow.config.overrides import with_overrides
from workflow.config.section import ConfigError, explain
from workflow.config.voting import VotingConfig
from workflow.voting.publishing import save
from workflow.voting.voting import vote

log = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Vote and write; the exit status."""
    given = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    try:
        settings = VotingConfig.model_validate(with_overrides({"set": given.set}))
        found = vote(
            traces=given.traces, scores=given.scores, problems=given.problems, run=given.run, stage=given.stage, update=0,
            settings=settings.counting(),
            bootstrap={"replicates": given.replicates, "confidence": given.confidence, "seed": settings.seed},
        )  # fmt: skip
    except ValidationError as error:
        log.error("%s", explain(error, VotingConfig))
        return 1
    except (ConfigError, OSError) as error:
        log.error("%s", error)
        return 1
    given.out.mkdir(parents=True, exist_ok=True)
    for name, table in found.items():
        save(table, given.out / f"{name}.parquet", given.out / f"{name}.csv")
    for row in found["voting"].to_pylist():
        if row["headline"]:
            named = " ".join(str(row[name]) for name in ("scheme", "task", "layer", "features", "model") if row[name] is not None)
            log.info("k %d  %-40s %.3f [%.3f, %.3f]", row["k"], named, row["accuracy"], row["accuracy_low"], row["accuracy_high"])
    log.info("wrote %s to %s", ", ".join(found), given.out)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m workflow.voting.vote_files", description="Answers by votes of several traces.")
    parser.add_argument("traces", type=Path, help="traces.parquet: several traces of each problem; test is reported, val decides")
    parser.add_argument("--scores", type=Path, help="scores.parquet of probes on steps of val and test; without it no probe votes")
    parser.add_argument("--problems", type=Path, help="problems.parquet, for groups of near-duplicates")
    parser.add_argument("--out", type=Path, required=True, help="folder for the tables")
    parser.add_argument("--run", default="given", help="name of the run in the tables")
    parser.add_argument("--stage", default="base", help="name of the stage in the tables")
    parser.add_argument("--replicates", type=int, default=2000, help="bootstrap replicates of intervals")
    parser.add_argument("--confidence", type=float, default=0.95, help="coverage of intervals")
    parser.add_argument("--set", default="", help="settings of the section voting, such as 'k=16 taus=[0.8,2.0]'")
    return parser


if __name__ == "__main__":
    sys.exit(main())
