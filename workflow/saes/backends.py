"""The backend that computes the updates, chosen once per job and said openly."""

import logging

import torch

from sae_core.kernels.backend import Backend
from sae_core.kernels.torch_backend import TorchBackend
from workflow.config.section import ConfigError

log = logging.getLogger(__name__)


def open_backend(setting: str, device: torch.device) -> Backend:
    """The backend for a setting of `auto`, `torch`, `native` or `triton`.

    Raises:
        ConfigError: the one asked for cannot run here.
    """
    try:
        backend = _chosen(setting, device)
    except ValueError as error:
        raise ConfigError(f"compute.backend={setting} cannot be had: {error}") from error
    log.info("updates by the backend %s (%s), compute.backend is %s", backend.name, backend.detail, setting)
    return backend


def _chosen(setting: str, device: torch.device) -> Backend:
    if setting not in ("auto", "torch"):
        raise ValueError(f"The backend must be one that is installed, torch; got {setting}. Set compute.backend to auto.")
    return TorchBackend(device)
