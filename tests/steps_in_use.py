"""Small step-level SAEs of random weights that depend on their input, and steps of irregular lengths for them."""

from pathlib import Path

import torch

from sae_core.models.step_sae import StepSAE
from workflow.step_saes import fresh_step_sae
from workflow.step_tokens import step_tokenizer

SEPARATOR, END = 299, 2
"""Ids that stand for `<sep>` and the end in sequences of random tokens, which lie between."""


def small_step_sae(base: Path, factor: int = 1, *, prior: bool = False) -> StepSAE:
    """A fresh SSAE in eval mode; its backbones' weights are enlarged, because random ones this small hardly look at their input."""
    torch.manual_seed(0)
    model = fresh_step_sae(base, factor=factor, blocks=None, vocab=step_tokenizer(base).vocab, prior=prior)
    for module in filter(None, (model.encoder, model.decoder, model.hints_encoder)):
        for parameter in module.parameters():
            parameter.data.mul_(3)
    for module in (model.projection_mlp, model.mean_mlp, model.var_mlp):
        for parameter in module.parameters():
            parameter.data.mul_(2)
    return model.requires_grad_(False).eval()


def random_texts(count: int, least: int, most: int, seed: int) -> list[list[int]]:
    """Token ids, `least` to `most` of them in each text, neither separator nor end."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(least, most + 1, (count,), generator=draw).tolist()
    return [torch.randint(3, 299, (length,), generator=draw).tolist() for length in lengths]
