"""LoRA adapters on a frozen policy: made from a seed, merged into a second copy of the weights that samples and is saved."""

import contextlib
import copy
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from workflow.decoding import random_stream

ADAPTER = "default"


class Adapted(NamedTuple):
    """A policy under training."""

    peft: PeftModel
    """The frozen weights with the adapter; without it (`peft.disable_adapter()`) the policy that training started from."""
    model: PreTrainedModel
    """The model inside `peft`, for calls without peft's wrapper."""
    merged: PreTrainedModel
    """Copy of the weights with the adapter added, as of the last `merge`: it samples, and it is what is saved."""

    def weights(self) -> dict[str, nn.Parameter]:
        """The trained parameters by name, in a fixed order."""
        return {name: weight for name, weight in sorted(self.model.named_parameters()) if weight.requires_grad}

    @torch.no_grad()
    def merge(self) -> PreTrainedModel:
        """Bring `merged` up to date and return it; always computed from the frozen weights, so that no rounding piles up."""
        for name, layer in self.model.named_modules():
            if isinstance(layer, LoraLayer):
                parts: Any = layer  # every linear kind of LoraLayer has them, the base class does not say so
                frozen: Tensor = parts.get_base_layer().weight
                delta: Tensor = parts.get_delta_weight(ADAPTER)
                target: Any = self.merged.get_submodule(name)
                target.weight.copy_((frozen.float() + delta.float()).to(frozen.dtype))
        return self.merged


@contextlib.contextmanager
def peft_warnings() -> Iterator[None]:
    """Keeps a warning from the log that peft itself causes by reading a renamed attribute of transformers."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        yield


def with_lora(model: PreTrainedModel, rank: int, alpha: int, seed: int) -> Adapted:
    """The model with a fresh adapter on all linear layers but the head: A random from the seed, B zero, no dropout.

    Source: Hu et al. 2021, eq. 3. The adapter is float32 whatever the number format of the model.
    """
    merged = copy.deepcopy(model)
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    with torch.random.fork_rng(), peft_warnings():
        torch.manual_seed(int(random_stream(seed, "lora").integers(2**62)))
        wrapped: Any = get_peft_model(model, config)
    # eval mode throughout: sampling and training are then the same function of the weights
    wrapped.eval()
    inner: Any = wrapped.get_base_model()
    return Adapted(wrapped, inner, merged.requires_grad_(False).eval())
