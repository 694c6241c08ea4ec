"""The backend for a setting and a device, chosen openly: the log says which and why."""

import importlib.util
import logging
from functools import cache
from typing import Literal, TypeAlias

import torch

from sae_core.kernels.backend import Backend
from sae_core.kernels.native.backend import NativeBackend
from sae_core.kernels.native.library import unavailable
from sae_core.kernels.torch_backend import TorchBackend

log = logging.getLogger(__name__)

BackendName: TypeAlias = Literal["auto", "torch", "native", "triton"]
"""`auto`: the fastest that works here: triton on a GPU, native on a CPU, torch where those are missing."""


def choose_backend(name: BackendName, device: torch.device) -> Backend:
    """The backend of that name, on that device.

    Raises:
        ValueError: it does not work here, or there is none of that name.
    """
    match name:
        case "auto":
            chosen, why = _fastest(device)
            return _made(chosen, device, why)
        case "torch":
            return _made("torch", device, "as asked for")
        case "native" | "triton":
            if missing := _missing(name, device):
                raise ValueError(f"The backend {name} {missing}, or choose auto or torch.")
            return _made(name, device, "as asked for")
        case _:
            raise ValueError(f"backend must be one of auto, torch, native, triton; got {name!r}. Choose one of them.")


def _fastest(device: torch.device) -> tuple[str, str]:
    """The name of the fastest backend that works on a device, and why it is that one."""
    best = "triton" if device.type == "cuda" else "native"
    if missing := _missing(best, device):
        return "torch", f"{best} {missing}"
    return best, f"the fastest on {device.type}"


def _missing(name: str, device: torch.device) -> str | None:
    """What a backend needs, what was found, what to do; None where it works."""
    if name == "native":
        if device.type != "cpu":
            return f"computes on a CPU; got the device {device}. Move to a CPU"
        reason = unavailable()
        return None if reason is None else f"needs a compiled library; found none that fits: {reason}"
    if device.type != "cuda":
        return f"computes on a GPU; got the device {device}. Move to a GPU"
    found = importlib.util.find_spec("triton") is not None
    return None if found else "needs the package triton; found none. Install it"


def _made(name: str, device: torch.device, why: str) -> Backend:
    match name:
        case "native":
            backend: Backend = NativeBackend()
        case "triton":
            from sae_core.kernels.triton.backend import TritonBackend  # imports triton, which a CPU needs not

            backend = TritonBackend(device)
        case _:
            backend = TorchBackend(device)
    _say(f"backend {backend.name} ({backend.detail}): {why}")
    return backend


@cache
def _say(message: str) -> None:
    """Log a message the first time."""
    log.info("%s", message)
