"""Tables as CSV and in the log, and a record of the machine beside them."""

import csv
import importlib.metadata
import json
import logging
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers import PEERS

log = logging.getLogger(__name__)
RESULTS = Path(__file__).resolve().parent / "results"

Line = dict[str, Any]


def write(path: Path, lines: Sequence[Line]) -> None:
    """One row per line under the names of the first, None as an empty field."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, list(lines[0]), lineterminator="\n")
        table.writeheader()
        table.writerows({name: "" if value is None else value for name, value in line.items()} for line in lines)
    show(lines)
    log.info("wrote %s", path)


def show(lines: Sequence[Line]) -> None:
    """The table in the log, in columns."""
    cells = [list(lines[0]), *([("-" if value is None else str(value)) for value in line.values()] for line in lines)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        log.info("%s", "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def write_machine(path: Path, device: torch.device, more: Mapping[str, Any]) -> None:
    """Where and with what a table was measured."""
    found = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load_at_end": round(os.getloadavg()[0], 2),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "peers": {name: _version(name) for name in PEERS},
        **more,
    }
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
