"""Time and peak memory of one update of a step-level SAE of the embedded model's size: ours, and the published procedure.

Every line is a process of its own, because only then its high-water mark of memory is its own. All take the same steps and the same
weights; before anything is timed, gradients are compared with those of the published loss. Columns: README.md.

    python -m benchmarks.bench_ssae_update
"""

import argparse
import json
import logging
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.memory import forget_peak, limit_to_what_is_free, peak_mib
from benchmarks.step_contenders import VARIANTS, VOCAB, drawn_steps, gradient_error, model_of
from benchmarks.table import RESULTS, Line, write, write_machine

log = logging.getLogger("bench_ssae_update")
CPU = torch.device("cpu")
SHARE = 0.96
"""Of the free memory that a line may take: the published procedure needs nearly all that a machine of 24 GiB has."""
CHECKED = 1
"""Steps on which gradients are compared."""


def point(variant: str, steps: int, blocks: int, threads: int, repeats: int, vocab: int = VOCAB) -> Line:
    """Seconds and MiB of one variant, measured in this process."""
    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    contender = VARIANTS[variant](model_of(blocks, vocab=vocab))
    contender.update(drawn_steps(2, seed=1, vocab=vocab))  # moments are there from the first update on
    forget_peak(CPU)
    spent = []
    for turn in range(repeats):
        batch = drawn_steps(steps, seed=2 + turn, vocab=vocab)
        before = clock()
        contender.update(batch)
        spent.append(clock() - before)
    tokens = int(batch.real.sum())
    return {"seconds": round(min(spent), 2), "tokens_per_s": round(tokens / min(spent), 1), "peak_mib": round(peak_mib(CPU))}


def checked(variant: str, blocks: int, threads: int) -> Line:
    """Relative error of its gradients where no token is hidden and no noise added."""
    torch.set_num_threads(threads)
    return {"gradient_error": f"{gradient_error(variant, model_of(blocks), drawn_steps(CHECKED, seed=0)):.1e}"}


def elsewhere(arguments: list[str]) -> Line:
    """The same in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.bench_ssae_update", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).resolve().parent.parent, check=False)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    return {"note": (done.stderr.strip().splitlines() or [f"killed, {done.returncode}"])[-1]}


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    arguments.add_argument("--steps", type=int, default=32, help="of an update")
    arguments.add_argument("--blocks", type=int, default=30)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--repeats", type=int, default=1)
    arguments.add_argument("--point", choices=["time", "gradients"], help="measure the one variant here, and print it as JSON")
    arguments.add_argument("--out", type=Path, default=RESULTS, help="folder of the table")
    given = arguments.parse_args()
    sizes = (given.blocks, given.threads)
    if given.point:
        variant = given.variants[0]
        limit_to_what_is_free(SHARE)
        line = checked(variant, *sizes) if given.point == "gradients" else point(variant, given.steps, *sizes, given.repeats)
        sys.stdout.write(json.dumps(line) + "\n")
        return
    write(given.out / "ssae_update_cpu.csv", table(given))
    write_machine(given.out / "ssae_update_cpu.json", CPU, {"steps": given.steps, "blocks": given.blocks})


def table(given: Any) -> list[Line]:
    """A line per variant; ratios to the first."""
    lines: list[Line] = []
    for variant in given.variants:
        rest = ["--variants", variant, "--blocks", str(given.blocks), "--threads", str(given.threads), "--steps", str(given.steps)]
        found = elsewhere([*rest, "--repeats", str(given.repeats), "--point", "time"])
        found |= elsewhere([*rest, "--point", "gradients"])
        line = {"variant": variant, "blocks": given.blocks, "threads": given.threads, "steps": given.steps}
        line |= {name: found.get(name) for name in ("seconds", "tokens_per_s", "peak_mib", "gradient_error")}
        first = (lines or [line])[0]
        both = line["seconds"] and first["seconds"]
        line["times_faster"] = round(first["seconds"] / line["seconds"], 2) if both else None
        line["share_of_memory"] = round(line["peak_mib"] / first["peak_mib"], 2) if both else None
        lines.append(line | {"note": found.get("note", "")})
        log.info("%s", lines[-1])
    return lines


if __name__ == "__main__":
    main()
