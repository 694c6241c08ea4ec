"""The backend that computes with the SAEs of a job."""

import torch

from sae_core.kernels.backend import Backend
from sae_core.kernels.choice import BackendName, choose_backend
from workflow.config.section import ConfigError


def open_backend(setting: BackendName, device: torch.device) -> Backend:
    """The backend for a setting of `auto`, `torch`, `native` or `triton`; the log says which it is and why.

    Raises:
        ConfigError: the one asked for cannot run here.
    """
    try:
        return choose_backend(setting, device)
    except ValueError as error:
        raise ConfigError(f"compute.backend={setting} cannot be had here. {error}") from error
