"""Probes on many sparse steps: seconds and peak memory of whole fits with their folds, and of single solvers.

`python -m benchmarks.bench_probes`, some minutes on one core; writes benchmarks/results/probes.csv. Every line is a process of its
own. Truth first: each fit must rank held-out steps as the planted latents do, else no time is told.
"""

import argparse
import csv
import logging
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from workflow.config.probe_fits import ProbeFitsConfig
from workflow.probes.cells import Cell, fitted
from workflow.probes.linear import Recipe
from workflow.probes.scaling import scaling_of
from workflow.ranking import ranking

log = logging.getLogger(__name__)
RESULTS = Path(__file__).parent / "results" / "probes.csv"
PLANTED = 64
"""Latents that tell the label."""
RECIPES = {"l2": Recipe("l2"), "l1": Recipe("l1"), "k_sparse_64": Recipe("k_sparse", PLANTED)}
SOLVERS = {
    "l2 lbfgs": {"solver": "lbfgs"},
    "l2 newton-cg": {"solver": "newton-cg"},
    "l2 liblinear": {"solver": "liblinear"},
    "l2 saga": {"solver": "saga", "tol": 1e-3, "max_iter": 20},
    "l1 liblinear": {"solver": "liblinear", "l1_ratio": 1.0, "tol": 1e-2},
    "l1 saga": {"solver": "saga", "l1_ratio": 1.0, "tol": 1e-3, "max_iter": 20},
}
"""One fit at C = 1; saga is stopped after 20 passes."""


def world(steps: int, latents: int, active: int) -> tuple[csr_array, np.ndarray, np.ndarray, np.ndarray]:
    """Codes that fire as unevenly as an SAE's, labels by a few latents, groups of ten steps, and what these latents know."""
    draw = np.random.default_rng(0)
    rate = np.arange(1, latents + 1) ** -0.6
    columns = np.searchsorted(np.cumsum(rate / rate.sum()), draw.random((steps, active))).clip(0, latents - 1).astype(np.int32)
    values = draw.exponential(1, (steps, active)).astype(np.float32)
    codes = csr_array((values.ravel(), columns.ravel(), np.arange(0, steps * active + 1, active)), shape=(steps, latents))
    codes.sum_duplicates()
    weights = np.zeros(latents)
    weights[draw.choice(2000, PLANTED, replace=False)] = draw.normal(0, 2, PLANTED)
    known = codes @ weights
    known -= known.mean()
    labels = (draw.random(steps) < expit(known)).astype(np.float64)
    return codes, labels, np.arange(steps) // 10, known


def measured(name: str, steps: int, latents: int, active: int) -> dict[str, float | str]:
    """One line of the table."""
    codes, labels, groups, known = world(steps, latents, active)
    train = np.arange(steps) < steps * 4 // 5
    rows, held = codes[np.flatnonzero(train)], codes[np.flatnonzero(~train)]
    started = time.perf_counter()
    with threadpool_limits(1):
        if name in RECIPES:
            fit = fitted(Cell("binary", rows, labels[train], groups[train], 0), RECIPES[name], ProbeFitsConfig(), 0)
            said, what = fit.says(held), f"C = {fit.c:g} by {ProbeFitsConfig().folds} folds of {len(ProbeFitsConfig().c_grid)}"
        else:
            scaling = scaling_of(rows)
            model = LogisticRegression(C=1.0, class_weight="balanced", random_state=0, **SOLVERS[name]).fit(
                scaling(rows), labels[train]
            )
            said, what = model.decision_function(scaling(held)), "one fit at C = 1"
    seconds = time.perf_counter() - started
    best, found = (_auroc(scores, labels[~train]) for scores in (known[~train], said))
    if name in RECIPES and found < best - 0.08:
        raise SystemExit(f"{name} must come near the AUROC {best:.3f} of the planted latents; it has {found:.3f}. No time is told.")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"fit": name, "what": what, "auroc": round(found, 4), "planted_auroc": round(best, 4), "seconds": round(seconds, 1),
            "peak_gib": round(peak, 2)}  # fmt: skip


def _auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    return float(ranking(scores, labels == 1, np.zeros(len(labels), int), np.ones((1, 1))).auroc[0])


def main() -> None:
    """Measure every line in a process of its own and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--latents", type=int, default=50_000)
    parser.add_argument("--active", type=int, default=64, help="latents that fire on a step")
    parser.add_argument("--one", help="measure this line alone and print it")
    given = parser.parse_args()
    shape = {"steps": given.steps, "latents": given.latents, "active": given.active}
    if given.one:
        csv.DictWriter(sys.stdout, list(line := measured(given.one, **shape))).writerow(line)
        return
    names = ["fit", "what", "auroc", "planted_auroc", "seconds", "peak_gib"]
    with open(RESULTS, "w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow([*shape, *names])
        for name in [*RECIPES, *SOLVERS]:
            command = [sys.executable, "-m", "benchmarks.bench_probes", "--one", name]
            command += [word for key, value in shape.items() for word in (f"--{key}", str(value))]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
            line = next(csv.reader([done.stdout.strip()]))
            table.writerow([*shape.values(), *line])
            log.info("%s", "  ".join(line))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    main()
