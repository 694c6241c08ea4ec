"""What the published step-level SAE computes, row by row and as literally as the description of it, defects included.

The truth that tests of our own model, training and generation are compared with. Works on the modules of a `StepSAE`.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # its customary name

from sae_core.models.step_sae import StepSAE


class Forward(NamedTuple):
    """One phase-1 forward pass."""

    latents: Tensor
    """[batch, 1, d_code], noise included."""
    sparsity: Tensor
    """Σ over the batch of Σ|z|, before noise."""
    logits: Tensor
    """[batch, factor + pos − 1, vocab]."""


def codes(model: StepSAE, ids: Tensor, mask: Tensor) -> Tensor:
    """[batch, 1, d_code]: normalised codes, read at the last position that the mask keeps."""
    hidden = model.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    last = torch.stack([hidden[row, int(mask[row].sum()) - 1] for row in range(len(ids))]).unsqueeze(1)
    z = torch.relu(model.autoencoder.encoder(last) + model.autoencoder.latent_bias)
    return F.normalize(z, p=2, dim=-1)


def logits(model: StepSAE, latents: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """The decoder on [soft tokens, tokens without the one at mask.sum − 1], with the mask as it is behind c − 1 ones."""
    decoder: Any = model.decoder
    kept = torch.stack([torch.cat([row[: int(m.sum()) - 1], row[int(m.sum()) :]]) for row, m in zip(ids, mask, strict=True)])
    soft = model.projection_mlp(latents).view(len(ids), model.factor, model.d_model)
    embedded = torch.cat([soft, decoder.get_input_embeddings()(kept)], dim=1)
    attention = torch.cat([torch.ones(len(ids), model.factor - 1, dtype=mask.dtype), mask], dim=1)
    return decoder(inputs_embeds=embedded, attention_mask=attention).logits


def forward(model: StepSAE, ids: Tensor, mask: Tensor, noise: Tensor | None = None) -> Forward:
    """Phase 1, training and evaluation alike; `noise` [batch, 1, d_code] is 0.01·N(0, 1) in the original."""
    z = codes(model, ids, mask)
    sparsity = z.abs().sum()
    z = z if noise is None else z + noise
    return Forward(z, sparsity, logits(model, z, ids, mask))


def nll(scores: Tensor, ids: Tensor, loss_mask: Tensor, factor: int) -> Tensor:
    """Σ(cross-entropy · loss mask) / Σ loss mask, the cross-entropy of all positions computed first."""
    every = F.cross_entropy(scores[:, factor - 1 :].transpose(1, 2), ids, reduction="none")
    return (every * loss_mask).sum() / loss_mask.sum()


def token_masked(mask: Tensor, starts: list[int], lengths: list[int], draws: Tensor) -> Tensor:
    """Attention bits of step positions cleared where a uniform draw [batch, pos] is below 0.1."""
    masked = mask.clone()
    for row, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        masked[row, start:length] = (draws[row, start:length] >= 0.1).to(mask.dtype)
    return masked


@torch.no_grad()
def greedy(
    model: StepSAE, latents: Tensor, contexts: list[list[int]], *, first: int, end: int, pad: int, new_tokens: int
) -> list[list[int]]:
    """Greedy continuation of [soft tokens, context, <sep>] per row, re-encoded whole for every token; begins with `first`.

    Finished rows get `pad`; the end itself becomes `pad`, too.
    """
    decoder: Any = model.decoder
    written: list[list[int]] = [[first] for _ in contexts]
    done = [False] * len(contexts)
    for _ in range(new_tokens):
        for row, context in enumerate(contexts):
            if done[row]:
                written[row].append(pad)
                continue
            soft = model.projection_mlp(latents[row : row + 1]).view(1, model.factor, model.d_model)
            tokens = torch.tensor([[*context, *written[row][1:]]])
            scores = decoder(inputs_embeds=torch.cat([soft, decoder.get_input_embeddings()(tokens)], dim=1)).logits[0, -1]
            token = int(scores.argmax())
            done[row] = token == end
            written[row].append(pad if done[row] else token)
        if all(done):
            break
    return written
