"""Votes on one pool: its five tables, and what they were made of."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from workflow.config.section import ConfigError
from workflow.formats.table_files import arrow_table
from workflow.formats.voting_columns import VOTING_TABLES
from workflow.voting.comparing import Groups
from workflow.voting.pool import DEVELOPMENT, REPORTED, Pool, read_pools
from workflow.voting.probes_read import probes
from workflow.voting.rows import answer_rows, curve_rows, headlines, tested_rows, tuned_rows, voted_rows
from workflow.voting.schemes import counters, plain_schemes, probe_schemes

log = logging.getLogger(__name__)


def vote(
    *, traces: Path | str, scores: Path | str | None, problems: Path | str | None, run: str, stage: str, update: int,
    settings: Mapping[str, Any], bootstrap: Mapping[str, Any],
) -> dict[str, pa.Table]:  # fmt: skip
    """The tables of one pool by name, see `workflow.formats.voting_columns`.

    Args:
        traces: traces.parquet of the pool; problems of `val` are development ones, those of `test` are reported.
        scores: scores.parquet of probes on its steps; None where there are none, the schemes of probes are left out then.
        problems: problems.parquet for near-duplicates; None: every problem is a group of its own.
        run: RL run of the policy.
        stage: its stage.
        update: PPO updates behind it.
        settings: `VotingConfig.counting()`.
        bootstrap: `replicates`, `confidence` and `seed`.

    Raises:
        ConfigError: what `read_pools` and `step_scores` refuse, k beyond the pool, or fewer than two groups of problems.
    """
    pools = read_pools(traces, None if problems is None else _groups(problems))
    _check(pools, settings["k"])
    at = counters(pools, settings)
    schemes = list(plain_schemes(at, settings["seed"]))
    if scores is not None:
        for probe, rows in probes(scores, settings["tasks"], settings["features"]):
            schemes += probe_schemes(at, probe, rows, settings)
    pool = pools[REPORTED]
    log.info("%s, %s: %d problems with %d traces each, %d schemes", run, stage, len(pool.problems), pool.samples, len(schemes))
    told, groups = headlines(schemes), Groups(pool.groups, **bootstrap)
    where = {"run": run, "stage": stage, "update": update}
    rows = {
        "answers": answer_rows(where, pools),
        "voting": voted_rows(where, pool, schemes, told, groups),
        "voting_curves": curve_rows(where, schemes, told, groups),
        "voting_tests": tested_rows(where, schemes, told, groups, flips=settings["flips"], seed=settings["seed"]),
        "voting_tuning": tuned_rows(where, pools.get(DEVELOPMENT), schemes, at.k),
    }
    return {name: arrow_table(list(rows[name]), VOTING_TABLES[name]) for name in VOTING_TABLES}


def _check(pools: Mapping[str, Pool], k: int | None) -> None:
    samples = pools[REPORTED].samples
    if k is not None and k > samples:
        raise ConfigError(
            f"voting.k must be at most the traces per problem; got {k}, the pool has {samples}. Lower it, or raise "
            "traces.pool.samples."
        )


def _groups(problems: Path | str) -> dict[str, str]:
    table = pq.read_table(problems, columns=["problem", "group"])
    return dict(zip(table["problem"].to_pylist(), table["group"].to_pylist(), strict=True))
