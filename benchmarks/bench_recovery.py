"""Planted dictionaries: what SAEs of every kind recover, trained by sae_core and by SAELens on the same rows for as many updates.

Kinds that pay for activity are trained at several coefficients, the same for both in each one's own units, and compared at the
coefficient at which each recovers most. Columns: README.md.

    python -m benchmarks.bench_recovery --seeds 1 2 3
"""

import argparse
import logging
import multiprocessing
import os
import sys
import warnings
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import torch

from benchmarks.planted import Recovery
from benchmarks.recovery import KINDS, PAYING, Plan, data_of, trained_by_sae_lens, trained_by_us
from benchmarks.table import RESULTS, Line, write, write_machine

log = logging.getLogger("bench_recovery")
COEFS = {"relu": (0.5, 1.0, 2.0), "gated": (1.0, 2.0, 4.0), "jumprelu": (0.1, 0.3, 0.6)}
"""Sparsity coefficients in SAELens' units."""
TRAINERS = {"sae_core": trained_by_us, "sae-lens": trained_by_sae_lens}


class Job(NamedTuple):
    """One kind on one stream of rows."""

    kind: str
    seed: int
    plan: Plan
    trainers: tuple[str, ...]


class Run(NamedTuple):
    """One trained SAE."""

    kind: str
    trainer: str
    coef: float
    seed: int
    recovery: Recovery


def runs_of(job: Job) -> list[Run]:
    """All of a job's SAEs, on one thread."""
    torch.set_num_threads(1)
    data, found = data_of(job.plan, job.seed), []
    for coef in COEFS.get(job.kind, (0.0,)):
        for trainer in job.trainers:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # those of sae-lens while it is imported and set up
                recovery = TRAINERS[trainer](job.kind, job.plan, data, coef, job.seed)
            found.append(Run(job.kind, trainer, coef, job.seed, recovery))
    return found


def lines_of(runs: list[Run]) -> list[Line]:
    """One line per kind, trainer and coefficient, over seeds; `best` marks the coefficient that is compared."""
    groups: dict[tuple[str, str, float], list[Recovery]] = defaultdict(list)
    for run in runs:
        groups[run.kind, run.trainer, run.coef].append(run.recovery)
    found: list[Line] = []
    for (kind, trainer, coef), several in groups.items():
        rivals = [mean(r.mcc for r in other) for (k, t, _), other in groups.items() if (k, t) == (kind, trainer)]
        mccs = [recovery.mcc for recovery in several]
        line: dict[str, Any] = {"kind": kind, "trainer": trainer, "sparsity_coef": coef if kind in PAYING else None}
        line |= {"mcc": f"{mean(mccs):.4f}", "mcc_low": f"{min(mccs):.4f}", "mcc_high": f"{max(mccs):.4f}"}
        line |= {"nmse": f"{mean(r.nmse for r in several):.4f}", "l0": f"{mean(r.l0 for r in several):.2f}"}
        found.append(line | {"seeds": len(several), "best": mean(mccs) == max(rivals)})
    return found


def compare(lines: list[Line]) -> dict[str, str]:
    """Per kind, whether sae_core's best recovers at least what SAELens' best does."""
    found = {}
    for kind in dict.fromkeys(line["kind"] for line in lines):
        best = {line["trainer"]: float(line["mcc"]) for line in lines if line["kind"] == kind and line["best"]}
        if len(best) == 2:
            ours, theirs = best["sae_core"], best["sae-lens"]
            found[kind] = f"{'at least as much' if ours >= theirs else 'LESS'}: {ours:.4f} beside {theirs:.4f}"
        else:
            found[kind] = "not compared: sae-lens is not installed"
    return found


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    arguments.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    arguments.add_argument("--updates", type=int, default=Plan().updates)
    arguments.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    arguments.add_argument("--out", type=Path, default=RESULTS, help="folder of the table")
    given = arguments.parse_args()
    plan = Plan(updates=given.updates)
    try:
        import sae_lens  # noqa: F401 - only whether it is there

        trainers = tuple(TRAINERS)
    except ImportError as reason:
        log.info("sae-lens is absent: %s", reason)
        trainers = ("sae_core",)
    jobs = [Job(kind, seed, plan, trainers) for kind in given.kinds for seed in given.seeds]
    with ProcessPoolExecutor(given.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        lines = lines_of([run for runs in pool.map(runs_of, jobs) for run in runs])
    verdicts = compare(lines)
    write(given.out / "recovery.csv", lines)
    write_machine(given.out / "recovery.json", torch.device("cpu"), {"plan": plan._asdict(), "mcc": verdicts})
    for kind, verdict in verdicts.items():
        log.info("%s: %s", kind, verdict)


if __name__ == "__main__":
    main()
