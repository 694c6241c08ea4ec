"""How well a step-level SAE rebuilds steps from their codes, step by step, and how sparse these codes are."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_core.models.step_batch import StepBatch
from sae_core.models.step_sae import StepSAE

LOGITS = 2**24
"""Logits that exist at a time: 64 MiB."""


class StepSums(NamedTuple):
    """One number per step; a mean over steps or tokens is a ratio of their sums."""

    nll: Float[Tensor, " batch"]
    """Nats over the tokens of the step and the end, given context and code, without noise."""
    tokens: Int[Tensor, " batch"]
    """How many these are."""
    l1: Float[Tensor, " batch"]
    """L1 norm of the code, whose Euclidean length is 1."""
    active: Int[Tensor, " batch"]
    """Latents above 0."""


@torch.inference_mode()
def step_sums(model: StepSAE, batch: StepBatch) -> tuple[StepSums, Float[Tensor, "batch d_code"]]:
    """The sums of a batch, and its codes."""
    code = model.encode(batch)
    return StepSums(step_nll(model, batch, code), batch.predicted.sum(1), code.sum(1), (code > 0).sum(1)), code


@torch.inference_mode()
def step_nll(model: StepSAE, batch: StepBatch, code: Float[Tensor, "batch d_code"]) -> Float[Tensor, " batch"]:
    """Nats over the tokens of each step and the end, given its context and the code that stands in its row, in float64."""
    decoder: Any = model.decoder
    states, scored = model.decoder_states(code, batch), batch.predicted
    losses = token_nll(states[scored], decoder.get_output_embeddings().weight, batch.ids[scored])
    rows = scored.nonzero()[:, 0]
    return losses.new_zeros(len(batch.length), dtype=torch.float64).index_add(0, rows, losses.double())


def token_nll(
    states: Float[Tensor, "row d_model"], head: Float[Tensor, "vocab d_model"], targets: Int[Tensor, " row"]
) -> Float[Tensor, " row"]:
    """−log softmax(states headᵀ)[target] of every row, in nats; a few hundred rows of logits exist at a time."""
    found = [states.new_zeros(0, dtype=torch.float32)]
    for part, aimed in zip(states.split(block := max(1, LOGITS // len(head))), targets.split(block), strict=True):
        logits = (part @ head.T.to(part.dtype)).float()
        found.append(logits.logsumexp(1) - logits.gather(1, aimed[:, None])[:, 0])
    return torch.cat(found)
