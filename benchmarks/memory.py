"""Memory of this process."""

import resource
import sys
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")
MEMINFO = Path("/proc/meminfo")
MIB = 1 << 20


def now_mib(device: torch.device) -> float:
    """Memory in use: of the device, or resident pages of the process (its high-water mark where these cannot be read)."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / MIB
    return _field(STATUS, "VmRSS") / MIB if STATUS.exists() else peak_mib(device)


def peak_mib(device: torch.device) -> float:
    """The most memory that was in use since `forget_peak`, or ever."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    if STATUS.exists():
        # unlike ru_maxrss it does not remember what stood in this process before it became this program
        return _field(STATUS, "VmHWM") / MIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / MIB


def forget_peak(device: torch.device) -> None:
    """Count the most memory in use from here on, where the system lets a process say so."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif CLEAR.exists():
        CLEAR.write_text("5", encoding="ascii")


def limit_to_what_is_free(share: float) -> None:
    """Let allocations fail in this process before they take more than this share of the machine's free memory."""
    if MEMINFO.exists():
        most = int(share * _field(MEMINFO, "MemAvailable"))
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def _field(path: Path, name: str) -> int:
    """Bytes in a line `Name: 123 kB`."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
