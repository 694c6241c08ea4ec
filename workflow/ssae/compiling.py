"""`training.compile`: the language models of a step-level SAE compiled by torch, or a clear word where that cannot be."""

import logging
import time
from typing import Any

import torch

from sae_core.models.step_sae import StepSAE
from workflow.config.section import ConfigError

log = logging.getLogger(__name__)


def compile_language_models(model: StepSAE, device: torch.device) -> None:
    """Let torch compile them at their first use, for sequences of any length; names of tensors stay.

    Raises:
        ConfigError: torch cannot compile on this device.
    """
    _check(device)
    decoder: Any = model.decoder
    for backbone in (model.encoder, model.hints_encoder, decoder.get_decoder()):
        if backbone is not None:
            backbone.compile(dynamic=True)


def _check(device: torch.device) -> None:
    """Compile a small thing and run it, forward and backward."""
    started = time.monotonic()
    found = torch.ones(8, device=device, requires_grad=True)
    try:
        torch.compile(lambda values: (values.sin() * values).sum())(found).backward()
    except Exception as error:  # of many packages: no compiler, no Triton, a GPU that is too old
        reason = next((line for line in str(error).splitlines() if line.strip()), "it gave no reason")
        raise ConfigError(
            f"ssae.training.compile needs a torch.compile that works on the device {device.type}; here it ends with "
            f"{type(error).__name__}: {reason} On a CPU it needs a C++ compiler, on a GPU Triton. Install it, or set "
            "ssae.training.compile=false."
        ) from None
    log.info("torch.compile works on %s (tried in %.1f s)", device.type, time.monotonic() - started)
