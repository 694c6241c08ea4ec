"""provenance.json: how, with what and where an artefact was made. Nothing downstream depends on it."""

import os
import platform
import resource
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from workflow.fingerprint import ROOT

REPORTED = ("torch", "transformers", "peft", "numpy", "scipy", "zarr", "pyarrow", "pandas", "snakemake", "reasoning-gym", "vllm")


def machine(threads: int) -> dict[str, Any]:
    """Hardware of this job."""
    gpu = None
    if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_available():
        gpu = torch.cuda.get_device_name()
    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "gpu": gpu,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "host": platform.node(),
        "python": platform.python_version(),
    }


def cpu_name() -> str:
    """The processor's own name for itself."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())


def versions() -> dict[str, str]:
    """Versions of the installed packages that results may depend on."""
    found = {}
    for name in REPORTED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def peak_memory_gib() -> float:
    """Largest resident memory of this process so far."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3)


def commit() -> str | None:
    """The repository's commit, with `+` behind it when the tree has changes; None outside a checkout."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
