"""Sparse operations of a k-sparse SAE in torch and numpy: work grows with batch · k · d_model, not with batch · d_sae · d_model.

All weights are latent-major, [d_sae, d_model]: a latent is one contiguous vector. Sums run in a fixed order without atomics,
so every result is repeatable to the bit on one device. Autograd has no part in the gradients; they are operations of their own.

Source: the gather and segment sums of embedding tables (torch's `embedding_bag`).
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from sae_core.kernels.codes import ByLatent, Codes

GROUP = 8
"""Latents per group of the first level of `topk_rows`: the fastest of 4, 8, 16 and 32 at d_sae 4608 and 7168."""

BLOCK = 256
"""Latents whose norm is taken and divided by at a time on a CPU: small enough for its cache."""


def topk_rows(z: Float[Tensor, "batch d_sae"], k: int) -> tuple[Float[Tensor, "batch k"], Int[Tensor, "batch k"]]:
    """The k largest values of each row and their places, in no particular order; exact, NaN counts as largest.

    Two levels where that pays: of d_sae/8 groups the k with the largest maxima hold k largest values, because an element
    outside them is no larger than the maxima of k groups. Of equal values at the border any may be chosen, always the same.

    Source: the bound of two-level selection, arXiv 2506.04165 §3, here with as many groups as values and therefore exact.
    """
    batch, d_sae = z.shape
    groups = d_sae // GROUP
    if d_sae % GROUP or 2 * k > groups:
        indices = _largest(z, k)
    else:
        best = _largest(z.view(batch, GROUP, groups).amax(1), k)
        members = torch.arange(0, d_sae, groups, device=z.device).view(1, GROUP, 1)
        candidates = (best.unsqueeze(1) + members).view(batch, GROUP * k)
        indices = candidates.gather(1, _largest(z.gather(1, candidates), k))
    return z.gather(1, indices), indices


def _largest(values: Tensor, k: int) -> Tensor:
    """Places of the k largest values of each row: on a CPU by numpy's vectorised partition, twice as fast as torch.topk."""
    if values.is_cuda:
        return values.topk(k, dim=-1, sorted=False).indices
    rest = values.shape[1] - k
    return torch.from_numpy(np.argpartition(values.detach().numpy(), min(rest, values.shape[1] - 1), axis=1)[:, rest:].copy())


def decode(codes: Codes, weights: Float[Tensor, "d_sae d_model"]) -> Float[Tensor, "row d_model"]:
    """Σ value · weights[latent] over the entries of each row: the product of the codes with a latent-major matrix."""
    return embedding_bag(
        codes.latents, weights, codes.offsets, per_sample_weights=codes.values, mode="sum", include_last_offset=True
    )


def by_latent(codes: Codes, d_sae: int) -> ByLatent:
    """The transpose of codes (compressed by latent); a stable sort, therefore one order only."""
    flat, rows = codes.latents, codes.rows()
    if flat.is_cuda:
        latents, order = torch.sort(flat, stable=True)
        offsets = torch.searchsorted(latents, torch.arange(d_sae + 1, device=flat.device))
    else:
        # numpy sorts 16-bit keys by radix: a fourth of the time of torch's sort, which does so from 32768 keys on only
        keys = flat.numpy().astype(np.uint16 if d_sae <= 1 << 16 else np.int64)
        order = torch.from_numpy(np.argsort(keys, kind="stable"))
        latents, offsets = flat[order], torch.zeros(d_sae + 1, dtype=torch.int64)
        torch.cumsum(torch.bincount(flat, minlength=d_sae), 0, out=offsets[1:])
    return ByLatent(offsets, order, rows[order], latents)


def entry_gradients(
    gradient: Float[Tensor, "batch d_model"], weights: Float[Tensor, "d_sae d_model"], entries: ByLatent
) -> Float[Tensor, " entry"]:
    """⟨gradient[row], weights[latent]⟩ of each sorted entry: the gradient of `decode` in its values.

    Read latent by latent, the large matrix streams past once; row by row, as autograd does it, takes twice as long on a CPU.
    """
    op = torch.ops.aten._embedding_bag_per_sample_weights_backward
    return op(weights, gradient, entries.rows, entries.offsets[:-1], entries.latents, 0, -1)


def weight_gradient(
    coefficients: Float[Tensor, " entry"], entries: ByLatent, rows: Float[Tensor, "batch d_model"]
) -> Float[Tensor, "d_sae d_model"]:
    """Σ over a latent's entries of coefficient · row: the gradient of a latent-major matrix; 0 for untouched latents.

    With codes and residual gradients it is that of W_dec, with the gradients of the codes and the centred rows that of W_enc.

    Args:
        coefficients: one per sorted entry.
    """
    return embedding_bag(entries.rows, rows, entries.offsets, per_sample_weights=coefficients, mode="sum", include_last_offset=True)


def latent_sums(coefficients: Float[Tensor, " entry"], entries: ByLatent, batch: int) -> Float[Tensor, " d_sae"]:
    """Sum of the sorted entries of each latent: the gradient of the encoder bias."""
    return weight_gradient(coefficients, entries, coefficients.new_ones(batch, 1)).squeeze(1)


def unit_rows_(weights: Float[Tensor, "d_sae d_model"]) -> None:
    """Scale every row to norm 1, in place; a row of zeros stays."""
    for block in [weights] if weights.is_cuda else weights.split(BLOCK):
        block.div_(torch.linalg.vector_norm(block, dim=1, keepdim=True).clamp_min_(1e-12))
