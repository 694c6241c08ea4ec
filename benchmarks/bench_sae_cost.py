"""Time and peak memory of one SAE update as d_sae doubles from 4096 to 131072, at d_model 512, batch 512, k 64.

Every point is a process of its own, because only then its high-water mark of memory is its own. A point that does not fit into the
machine's free memory is a line without numbers.

    python -m benchmarks.bench_sae_cost --variants naive torch --d-sae 4096 8192
"""

import argparse
import gc
import json
import logging
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.field import entries
from benchmarks.memory import forget_peak, limit_to_what_is_free, now_mib, peak_mib
from benchmarks.plots import draw_costs
from benchmarks.shapes import Shape, batches_of, start_of
from benchmarks.table import RESULTS, Line, write
from benchmarks.timing import clock_of, times_of

log = logging.getLogger("bench_sae_cost")
PLANTED = 4096
"""Directions of the rows, the same at every size."""
SHARE = 0.9
UPDATES = 2
VARIANTS = {"cpu": ["naive", "torch", "native"], "cuda": ["naive", "torch", "triton", "eai-sparsify"]}


def point(variant: str, d_sae: int, device: torch.device, threads: int) -> Line:
    """Milliseconds of one contender at one size, and MiB of its SAE, optimiser and update; measured in this process."""
    torch.set_num_threads(threads)
    limit_to_what_is_free(SHARE)
    entry = next(entry for entry in entries(device) if entry.name == variant)
    small = Shape("small", 8, 16, 64, 4)
    entry.make(small, start_of(small, torch.zeros(1, 16)), device)  # loads what only has to be loaded once
    shape = Shape("", 512, 512, d_sae, 64)
    batches = [rows.to(device) for rows in batches_of(shape, 2, PLANTED)]
    before = now_mib(device)
    contender = entry.make(shape, start_of(shape, batches[0].cpu()), device)
    gc.collect()
    forget_peak(device)
    clock = clock_of(device, threads)
    clock(contender.update, batches[0])
    times = times_of([clock(contender.update, batches[turn % 2]) for turn in range(UPDATES)])
    return {"ms": round(times.median, 1), "peak_mib": round(peak_mib(device) - before)}


def measured_elsewhere(variant: str, d_sae: int, device: str, threads: int) -> Line:
    """The same in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.bench_sae_cost", "--point", variant, "--d-sae", str(d_sae)]
    command += ["--device", device, "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).resolve().parent.parent, check=False)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1]) | {"note": ""}
    last = (done.stderr.strip().splitlines() or [f"killed, {done.returncode}"])[-1]
    fits = "does not fit into memory" if "memory" in last.lower() or done.returncode < 0 else last
    return {"ms": None, "peak_mib": None, "note": fits}


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments.add_argument("--variants", nargs="+")
    arguments.add_argument("--d-sae", type=int, nargs="+", default=[4096 << power for power in range(6)])
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--point", metavar="VARIANT", help="measure this one here, and print it as JSON")
    arguments.add_argument("--out", type=Path, default=RESULTS, help="folder of the table and its plot")
    given = arguments.parse_args()
    if given.point:
        line = point(given.point, given.d_sae[0], torch.device(given.device), given.threads)
        sys.stdout.write(json.dumps(line) + "\n")
        return
    lines: list[Line] = []
    for d_sae in given.d_sae:
        for variant in given.variants or VARIANTS[given.device]:
            head = {"d_sae": d_sae, "variant": variant, "precision": "fp32", "threads": given.threads}
            lines.append(head | measured_elsewhere(variant, d_sae, given.device, given.threads))
            log.info("%s", lines[-1])
    name = "sae_update_cost_cpu" if given.device == "cpu" else "sae_update_cost_gpu"
    write(given.out / f"{name}.csv", lines)
    draw_costs(given.out / f"{name}.svg", lines)


if __name__ == "__main__":
    main()
