"""The published loss of phase 1 under a token mask: hidden tokens make a step look shorter than it is.

With n visible tokens the code is read from the state at index n − 1, which is no longer that of the end, and the decoder is fed all
tokens but the one at that index: behind it, positions see the token that they are scored on. The mask of the decoder stands one
position too late. Without hidden tokens nothing differs from `step_terms`.

Source: Miaow-Lab/SSAE, model_qwen.py.
"""

from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from sae_core.models.step_batch import StepBatch
from sae_core.models.step_sae import StepSAE, last_states
from sae_core.training.head_loss import head_nll
from sae_core.training.step_update import StepNoise, StepTerms


def masked_readout_terms(
    model: StepSAE, batch: StepBatch, *, noise: StepNoise, draw: torch.Generator | None = None, drawn: Tensor | None = None
) -> StepTerms:
    """What `step_terms` gives, as the published code computes it in training.

    Args:
        drawn: uniform draws [batch, pos] in the place of those of `draw`; a step token with one below the rate is hidden.
    """
    device = batch.ids.device
    if drawn is None:
        drawn = torch.rand(batch.ids.shape, generator=draw)
    attends = batch.real & ((drawn.to(device) >= noise.tokens) | ~batch.predicted)
    code = model.code(last_states(model.encoder, batch.ids, attends, attends.sum(1) - 1))
    l1 = code.sum()
    if noise.code > 0:
        code = code + noise.code * torch.randn(code.shape, generator=draw).to(code)
    states = _states(model, code, batch, attends)
    scored = batch.predicted
    head = model.decoder.get_output_embeddings().weight  # type: ignore[operator]  # a causal language model
    return StepTerms(head_nll(states[scored], head, batch.ids[scored]), l1)


def _states(model: StepSAE, code: Tensor, batch: StepBatch, attends: Bool[Tensor, "batch pos"]) -> Tensor:
    """[batch, pos, d_model], the state at `pos` scored on the token at `pos`."""
    decoder: Any = model.decoder
    pos = torch.arange(batch.ids.shape[1] - 1, device=batch.ids.device)[None]
    left_out = attends.sum(1, keepdim=True) - 1
    tokens = decoder.get_input_embeddings()(batch.ids.gather(1, pos + (pos >= left_out).long()))
    soft = model.soft_tokens(code).to(tokens.dtype)
    mask = torch.cat([attends.new_ones(len(attends), model.factor - 1), attends], dim=1)
    embedded = torch.cat([soft, tokens], dim=1)
    hidden = decoder.get_decoder()(inputs_embeds=embedded, attention_mask=mask.long()).last_hidden_state
    return hidden[:, model.factor - 1 :]
