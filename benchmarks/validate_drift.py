"""Validation of drift on planted worlds: false claims, power, coverage of intervals, and what naive measures would have claimed.

    python -m benchmarks.validate_drift --worlds 200 --processes 2

Writes results/validation.csv beside this file (world, metric, value, bound, holds) and docs/validation.svg. Finished worlds stay
in the scratch folder: killed, it goes on there.
"""

import argparse
import csv
import io
import logging
import math
import os
from pathlib import Path

import torch

from benchmarks.validation.designs import designs
from benchmarks.validation.drawing import draw
from benchmarks.validation.lines import Line, table
from benchmarks.validation.running import outcomes
from workflow.formats.files import write_text

ROOT = Path(__file__).resolve().parent.parent
log = logging.getLogger("validate_drift")


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments = argparse.ArgumentParser(description="Validation of drift on planted worlds")
    arguments.add_argument("--worlds", type=int, default=200, help="worlds without drift; the others follow in proportion")
    arguments.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    arguments.add_argument("--scratch", type=Path, default=ROOT / "build" / "validation")
    arguments.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "validation.csv")
    arguments.add_argument("--plot", type=Path, default=ROOT / "docs" / "validation.svg")
    given = arguments.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    given.scratch.mkdir(parents=True, exist_ok=True)
    lines = table(outcomes(designs(given.worlds), given.scratch, given.processes))
    write(lines, given.out)
    draw(lines, given.plot)
    for line in lines:
        if line.bound:
            log.info("%-28s %-45s %8.3f %10s %s", line.world, line.metric, line.value, line.bound, "yes" if line.holds else "NO")


def write(lines: list[Line], path: Path) -> None:
    """The table as CSV, four digits; `holds` is yes or no, empty without a bound."""
    shown = [
        [
            line.world,
            line.metric,
            "" if math.isnan(line.value) else f"{line.value:.4g}",
            line.bound,
            "" if line.holds is None else ("no", "yes")[line.holds],
        ]
        for line in lines
    ]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([Line._fields, *shown])
    write_text(path, text.getvalue())


if __name__ == "__main__":
    main()
