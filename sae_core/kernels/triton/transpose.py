"""Entries of codes in the order of latents, by a stable sort of narrow keys: a fixed number of launches, nothing read back."""

import torch

from sae_core.kernels.codes import ByLatent, Codes


def by_latent(codes: Codes, d_sae: int) -> ByLatent:
    """The entries sorted by latent, those of one latent in the order of rows."""
    # a radix sort goes over the keys once per byte
    keys = codes.latents.to(torch.int16 if d_sae <= 1 << 15 else torch.int32)
    ascending, order = torch.sort(keys, stable=True)
    latents = ascending.to(torch.int64)
    offsets = torch.searchsorted(latents, torch.arange(d_sae + 1, device=latents.device))
    rows = torch.searchsorted(codes.offsets, order, right=True) - 1
    return ByLatent(offsets, order, rows, latents)
