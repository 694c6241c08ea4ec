"""Codes whose number varies from row to row: what lies above a threshold, and the largest of a whole batch.

Rows stand in order and the latents of a row rise, so each result has one form only.
"""

import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_core.kernels.codes import Codes

GROUP = 8
"""Values per group of the first level of `batch_topk` on a CPU."""


def above(z: Float[Tensor, "row d_sae"], threshold: Float[Tensor, " d_sae"] | Float[Tensor, ""]) -> Codes:
    """The entries with z > threshold, one per latent or one for all; a row may keep none. NaN is kept, so that it shows."""
    return _at(z, _places(~(z <= threshold).view(-1)))


def batch_topk(z: Float[Tensor, "row d_sae"], total: int) -> Codes:
    """The `total` largest entries of the whole batch, exactly as many; of equal ones the first. NaN counts as largest.

    A ReLU of the values afterwards gives BatchTopK (Bussmann et al. 2024): it keeps the order, and what it sets to 0 is not active.
    """
    assert 1 <= total <= z.numel(), "as many as there are, at most"
    flat = z.reshape(-1)
    if z.is_cuda:
        return _at(z, _first_largest(flat, total))
    # of groups the `total` largest maxima are values themselves: the total-th largest value is at least the least of them
    groups = len(flat) // GROUP
    least = _nth_largest(flat[: groups * GROUP].view(GROUP, groups).amax(0), total) if groups >= total else -math.inf
    candidates = _places(~(flat < least))
    return _at(z, candidates[_first_largest(flat[candidates], total)])


def _at(z: Float[Tensor, "row d_sae"], places: Int[Tensor, " entry"]) -> Codes:
    """Codes of rising places in the flattened z."""
    batch, d_sae = z.shape
    offsets = torch.searchsorted(places, torch.arange(0, batch * d_sae + 1, d_sae, device=z.device))
    return Codes(offsets, places % d_sae, z.reshape(-1)[places])


def _places(kept: Bool[Tensor, " value"]) -> Int[Tensor, " entry"]:
    return kept.nonzero().squeeze(1)


def _first_largest(values: Float[Tensor, " value"], total: int) -> Int[Tensor, " total"]:
    """Rising places of the largest values, of equal ones the first; a device is not waited for."""
    least = _nth_largest_on_device(values, total) if values.is_cuda else _nth_largest(values, total)
    larger, equal = ~(values <= least), values == least
    kept = larger | (equal & (equal.cumsum(0) <= total - larger.sum()))
    # more than `total` are larger only where they are NaN and `least` stands for one
    return kept.nonzero_static(size=total).squeeze(1)


def _nth_largest(values: Float[Tensor, " value"], n: int) -> float:
    """The n-th largest value; infinity where it is NaN."""
    place = len(values) - n
    found = float(np.partition(values.detach().numpy(), place)[place])
    return math.inf if math.isnan(found) else found


def _nth_largest_on_device(values: Float[Tensor, " value"], n: int) -> Float[Tensor, ""]:
    """As `_nth_largest`, by a selection that is fast on a GPU."""
    return values.topk(n, sorted=False).values.nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf).amin()
