"""Time of one TopK SAE update: ours on every backend, dense autograd and public trainers, in turn, on the same batches.

Speed counts only beside right gradients: everyone's are first compared with dense autograd in double precision, and the verdict
stands in the table. Columns and clocks: README.md.

    python -m benchmarks.bench_sae_update --shapes S576 S1 --threads 1 2
"""

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.contender import Contender
from benchmarks.field import Entry, entries
from benchmarks.plots import draw_updates
from benchmarks.roofline import Rates, floor_ms, measured_rates
from benchmarks.shapes import SHAPES, Shape, batches_of, start_of
from benchmarks.table import RESULTS, Line, write, write_machine
from benchmarks.timing import Times, clock_of, interleaved
from benchmarks.verdict import Verdict, judged

log = logging.getLogger("bench_sae_update")


def verdicts(shape: Shape, device: torch.device) -> dict[Entry, Verdict | str]:
    """The verdict on everyone's gradients at this size, or why it does not take part."""
    rows = batches_of(shape, 1)[0].to(device)
    start, found = start_of(shape, rows.cpu()), {}
    for entry in entries(device):
        try:
            found[entry] = judged(lambda tensors, entry=entry: entry.make(shape, tensors, device), shape, start, rows)
            log.info("%s %s %s: gradients %s", shape.name, entry.name, entry.precision, found[entry])
        except (ImportError, ValueError, RuntimeError) as reason:
            found[entry] = f"absent: {reason}".splitlines()[0]
            log.info("%s %s %s: %s", shape.name, entry.name, entry.precision, found[entry])
    return found


def measured(shape: Shape, device: torch.device, threads: int, present: list[Entry], seconds: float) -> dict[Entry, Times]:
    """Times of those that take part."""
    batches = [rows.to(device) for rows in batches_of(shape)]
    start = start_of(shape, batches[0].cpu())
    runners: dict[Entry, Contender] = {entry: entry.make(shape, start, device) for entry in present}
    names = {str(place): entry for place, entry in enumerate(runners)}
    updates = {name: runners[entry].update for name, entry in names.items()}
    times = interleaved(updates, batches, seconds, clock_of(device, threads))
    return {names[name]: found for name, found in times.items()}


def line_of(shape: Shape, threads: int, entry: Entry, verdict: Verdict | str, times: dict[Entry, Times], rates: Rates) -> Line:
    """One line of the table; someone absent has no numbers."""
    line: dict[str, Any] = {"shape": shape.name, "variant": entry.name, "precision": entry.precision, "threads": threads}
    if isinstance(verdict, str):
        empty = ("ms", "ratio_to_naive", "gradient_ok", "roofline_share", "ms_low", "ms_high", "updates", "gradient_error")
        return line | dict.fromkeys(empty) | {"note": verdict}
    mine, naive = times[entry], next(found for other, found in times.items() if other.name == "naive")
    return line | {
        "ms": f"{mine.median:.4g}",
        "ratio_to_naive": f"{naive.median / mine.median:.2f}",
        "gradient_ok": verdict.right,
        "roofline_share": f"{floor_ms(shape, rates, entry.precision) / mine.median:.3f}",
        "ms_low": f"{mine.low:.4g}",
        "ms_high": f"{mine.high:.4g}",
        "updates": mine.count,
        "gradient_error": f"{verdict.error:.1e}",
        "note": "" if verdict.right else str(verdict),
    }


def bench(shapes: list[Shape], device: torch.device, threads: list[int], seconds: float) -> tuple[list[Line], dict[str, Any]]:
    """The table, and the rates that its roofline stands on."""
    lines, rates_of = [], {}
    for shape in shapes:
        torch.set_num_threads(threads[0])
        judgements = verdicts(shape, device)
        present = [entry for entry, verdict in judgements.items() if isinstance(verdict, Verdict)]
        for count in threads:
            torch.set_num_threads(count)
            rates = measured_rates(shape, device, clock_of(device, count))
            rates_of[f"{shape.name}, {count} threads"] = {name: f"{rate:.3g}" for name, rate in rates._asdict().items()}
            times = measured(shape, device, count, present, seconds)
            lines += [line_of(shape, count, entry, verdict, times, rates) for entry, verdict in judgements.items()]
    return lines, {"operations_and_bytes_per_second": rates_of}


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=["S576", "S1", "S1'"])
    arguments.add_argument("--threads", type=int, nargs="+", default=sorted({1, os.cpu_count() or 1}))
    arguments.add_argument("--seconds", type=float, default=15, help="per shape and number of threads")
    arguments.add_argument("--out", type=Path, default=RESULTS, help="folder of the table and its plot")
    given = arguments.parse_args()
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit(
            "The GPU benchmark must run where torch sees a CUDA device; "
            f"torch {torch.__version__} sees none here. "
            "Run it on a machine with an NVIDIA GPU and a CUDA build of torch, or run make bench."
        )
    threads = given.threads if device.type == "cpu" else [1]
    lines, rates = bench([SHAPES[name] for name in given.shapes], device, threads, given.seconds)
    name = "sae_update_cpu" if device.type == "cpu" else "sae_update_gpu"
    write(given.out / f"{name}.csv", lines)
    write_machine(given.out / f"{name}.json", device, rates)
    draw_updates(given.out / f"{name}.svg", lines)


if __name__ == "__main__":
    main()
