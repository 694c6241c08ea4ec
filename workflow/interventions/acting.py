"""Interventions on latents as replacements of rows."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sae_core.models.sae import SAE
from workflow.interventions.latents import decoder_rows
from workflow.interventions.measuring import Replace


class Encoder:
    """Codes of an SAE, those of the last rows kept: all interventions of a batch are handed the same rows."""

    def __init__(self, sae: SAE) -> None:
        self.sae = sae
        self._rows, self._codes = torch.empty(0), torch.empty(0)

    def codes(self, rows: Tensor) -> Tensor:
        """Dense codes [row, d_sae]."""
        if rows is not self._rows:
            self._rows, self._codes = rows, self.sae.encode_dense(rows)
        return self._codes


def set_latent(encoder: Encoder, latent: int, value: float) -> Replace:
    """Every row with the latent's activation set to `value`: x + (value − f) d. What the SAE does not explain stays."""
    direction = decoder_rows(encoder.sae, [latent])[0]

    def changed(rows: Tensor) -> Tensor:
        change = value - encoder.codes(rows)[:, latent]
        return rows + change[:, None] * direction * encoder.sae.normalised(rows).size if bool((change != 0).any()) else rows

    return changed


def drive_latent(encoder: Encoder, latent: int, amount: float) -> Replace:
    """Every row with `amount` units of the latent added: x + amount · d."""
    direction = amount * decoder_rows(encoder.sae, [latent])[0]
    return lambda rows: rows + direction * encoder.sae.normalised(rows).size


def transplant(encoder: Encoder, now: SAE, latents: Sequence[int]) -> Replace:
    """Every row with directions of S_0 exchanged for those of a later SAE: x + Σ_j f_j (d_j^t − d_j^0), f = codes of S_0.

    Source: the causal test of Minder et al. 2025 (patching decoder differences into base, KL to the tuned model).
    """
    index = torch.as_tensor(latents, device=now.W_dec.device)
    difference = decoder_rows(now, index) * now.scale - decoder_rows(encoder.sae, index) * encoder.sae.scale
    return lambda rows: rows + encoder.codes(rows)[:, index] @ difference * (encoder.sae.normalised(rows).size / encoder.sae.scale)
