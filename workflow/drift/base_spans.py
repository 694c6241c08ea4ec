"""Spans of the base SAEs' decoders: the inside of a dictionary, of which a change is asked how much lies in it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sae_core.metrics.change import decoder_span
from sae_core.metrics.prompt_sums import sums_by_prompt
from sae_core.models.sae import SAE
from workflow.formats.activations import Store
from workflow.formats.masks import StageRows


class Span(NamedTuple):
    """The span of the decoder rows that carry most energy."""

    kind: str
    seed: int
    directions: int
    """Decoder rows it was made of."""
    basis: Tensor
    """[d_model, rank], orthonormal, float64."""


@torch.inference_mode()
def base_spans(
    saes: Mapping[tuple[str, int], SAE],
    store: Store,
    rows: StageRows,
    directions: Sequence[int],
    batch_rows: int,
    device: torch.device,
) -> list[Span]:
    """One span per base SAE and number of directions; latents are ranked by their energy Σ(f‖d‖)² on rows of base.

    Args:
        saes: base SAEs by kind and seed.
        store: all rows of base.
        rows: which of them count.
        directions: how many decoder rows; more than an SAE has are all of them.
        batch_rows: rows encoded together.
        device: where to compute.
    """
    models = {name: sae.to(device) for name, sae in saes.items()}
    energy = {name: torch.zeros(sae.config.d_sae, dtype=torch.float64, device=device) for name, sae in models.items()}
    for batch, where in store.sequential(batch_rows):
        x = batch[torch.from_numpy(rows.keep[where])].to(device)
        for name, sae in models.items() if len(x) else ():
            codes, latents = sae.encode(x), sae.config.d_sae
            energy[name] += sums_by_prompt(codes.values.double().square()[:, None], codes.latents, latents)[:, 0]
    found = []
    for (kind, seed), sae in models.items():
        unit = torch.linalg.vector_norm(sae.W_dec, dim=1).double() if sae.code_unit() is None else 1.0
        for count in dict.fromkeys(min(number, sae.config.d_sae) for number in directions):
            basis = decoder_span(sae.W_dec.detach(), energy[kind, seed] * unit**2, count)
            found.append(Span(kind, seed, count, basis))
    return found
