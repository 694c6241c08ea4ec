"""Many worlds in parallel processes; what is finished is kept, so that a killed validation goes on."""

import hashlib
import json
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.validation.designs import Design
from benchmarks.validation.outcomes import outcome
from workflow.fingerprint import fingerprint
from workflow.formats.files import write_json
from workflow.progress import Progress

CODE = [f"benchmarks/validation/{name}.py" for name in ("coverage", "latents", "naive", "outcomes", "tables")]


class Job(NamedTuple):
    """One world of a family."""

    design: Design
    number: int

    @property
    def key(self) -> str:
        """Digest of everything that the outcome depends on."""
        told = (self.design._replace(worlds=0), self.number, [fingerprint(path) for path in CODE], torch.__version__)
        return hashlib.sha256(repr(told).encode()).hexdigest()[:24]


def outcomes(designs: Sequence[Design], scratch: Path, processes: int) -> dict[str, list[dict[str, Any]]]:
    """What became of every world, by family.

    Args:
        scratch: folder of finished outcomes; those of other settings or other code lie there untouched.
        processes: worlds at a time, one thread each.
    """
    jobs = list(_interleaved(designs))
    files = {job: scratch / f"{job.key}.json" for job in jobs}
    left = [job for job in jobs if not files[job].exists()]
    spawn = multiprocessing.get_context("spawn")
    with (
        Progress(len(jobs), "validation", "worlds", done=len(jobs) - len(left)) as progress,
        ProcessPoolExecutor(processes, spawn, torch.set_num_threads, (1,)) as pool,
    ):
        running = {pool.submit(outcome, *job): job for job in left}
        for future in as_completed(running):
            write_json(files[running[future]], future.result())
            progress.advance(note=running[future].design.name)
    found: dict[str, list[dict[str, Any]]] = {design.name: [] for design in designs}
    for job in jobs:
        found[job.design.name].append(json.loads(files[job].read_text(encoding="utf-8")))
    return found


def _interleaved(designs: Sequence[Design]) -> Iterator[Job]:
    """Families in turn, so that a validation cut short has some of each and the time left is a fair guess."""
    for number in range(max(design.worlds for design in designs)):
        yield from (Job(design, number) for design in designs if number < design.worlds)
