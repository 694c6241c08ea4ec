"""How often and how strongly each latent fires on the rows of each prompt, as sparse sums.

Paired tests and intervals by prompt need one number per prompt and latent, and most of those are 0: kept are the (prompt, latent)
with at least one firing, sorted by prompt and then by latent. 10⁴ prompts with a thousand different latents each make 160 MB
here and 80 MB packed, whatever the number of rows.
"""

from collections.abc import Mapping
from typing import NamedTuple, final

import torch
from jaxtyping import Float, Float64, Int, Int32, Int64
from torch import Tensor

from sae_core.kernels.codes import Codes


class FiringSums(NamedTuple):
    """Sums over the rows of each prompt; prompt p has the entries offsets[p] … offsets[p + 1] − 1. `a + b` merges streams."""

    rows: Int64[Tensor, " prompt"]
    """Rows of each prompt, whether or not anything fired on them."""
    offsets: Int64[Tensor, " prompt_and_one"]
    """Where the entries of each prompt begin; the last number is the count of all."""
    latents: Int32[Tensor, " entry"]
    """Latent of each entry, rising within a prompt."""
    firings: Int32[Tensor, " entry"]
    """Rows of the prompt on which it was active, at least 1."""
    activation: Float64[Tensor, " entry"]
    """Σf over those rows."""
    d_sae: int
    """Latents of the SAE."""

    def __add__(self, other: "FiringSums") -> "FiringSums":  # type: ignore[override]  # sums add up
        """Sums of both streams; counts exactly, Σf to the rounding of float64."""
        assert (len(self.rows), self.d_sae) == (len(other.rows), other.d_sae)
        return _by_prompt(self.rows + other.rows, _merged(_by_key(self), _by_key(other)), self.d_sae)

    def prompts(self) -> Int64[Tensor, " entry"]:
        """Prompt of each entry."""
        return torch.repeat_interleave(torch.arange(len(self.rows)), self.offsets.diff(), output_size=len(self.latents))

    def packed(self) -> dict[str, Tensor]:
        """The sums in the least integer types that hold them and Σf in float32, by name: what is worth writing down."""
        narrow = {"latents": self.latents, "firings": self.firings}
        small = {
            name: values.to(torch.int16) if not values.numel() or int(values.max()) < 1 << 15 else values
            for name, values in narrow.items()
        }
        return {"rows": self.rows.to(torch.int32), "offsets": self.offsets, **small, "activation": self.activation.float()}


class LatentTotals(NamedTuple):
    """Sums over all prompts."""

    firings: Int64[Tensor, " d_sae"]
    """Rows on which each latent was active."""
    prompts: Int64[Tensor, " d_sae"]
    """Prompts with at least one such row."""
    activation: Float64[Tensor, " d_sae"]
    """Σf."""


def unpacked(tensors: Mapping[str, Tensor], d_sae: int) -> FiringSums:
    """Sums from what `FiringSums.packed` gave."""
    kinds = {
        "rows": torch.int64,
        "offsets": torch.int64,
        "latents": torch.int32,
        "firings": torch.int32,
        "activation": torch.float64,
    }
    return FiringSums(*(tensors[name].to(kind) for name, kind in kinds.items()), d_sae=d_sae)


def firing_sums(codes: Codes, prompt_index: Int[Tensor, " row"], n_prompts: int, d_sae: int) -> FiringSums:
    """The sums of one batch of codes, on the CPU; a latent is active where its value is not 0.

    Args:
        codes: one bag per row.
        prompt_index: prompt of each row, 0 … n_prompts − 1, in any order.
        n_prompts: prompts of the whole evaluation set.
        d_sae: latents of the SAE.
    """
    return _by_prompt(_row_counts(prompt_index, n_prompts), _keyed(codes, prompt_index, d_sae), d_sae)


@final
class FiringCounter:
    """Adds up the firing sums of a stream of batches; its size depends on prompts and latents, not on rows.

    Batches wait until as much has come as was merged before, so that every entry is moved a logarithmic number of times.
    """

    def __init__(self, n_prompts: int, d_sae: int) -> None:
        self._d_sae = d_sae
        self._rows = torch.zeros(n_prompts, dtype=torch.int64)
        self._parts: list[_Keyed] = []

    def add(self, codes: Codes, prompt_index: Int[Tensor, " row"]) -> None:
        """Count the active latents of some rows; batches in the order of prompts are the fastest."""
        self._rows += _row_counts(prompt_index, len(self._rows))
        self._parts.append(_keyed(codes, prompt_index, self._d_sae))
        while len(self._parts) > 1 and len(self._parts[-2].keys) <= 2 * len(self._parts[-1].keys):
            last = self._parts.pop()
            self._parts[-1] = _merged(self._parts[-1], last)

    def sums(self) -> FiringSums:
        """The sums so far."""
        while len(self._parts) > 1:
            last = self._parts.pop()
            self._parts[-1] = _merged(self._parts[-1], last)
        found = self._parts[0] if self._parts else _NOTHING
        return _by_prompt(self._rows.clone(), found, self._d_sae)


def latent_totals(sums: FiringSums) -> LatentTotals:
    """Firings, prompts and activation of each latent over all prompts."""
    order = torch.argsort(sums.latents, stable=True)
    starts = torch.searchsorted(sums.latents[order], torch.arange(sums.d_sae + 1, dtype=torch.int32))
    columns = torch.stack([sums.firings.double(), sums.activation], dim=1)
    firings, activation = _segments(columns, order, starts[:-1]).unbind(1)
    return LatentTotals(firings.long(), starts.diff(), activation)


def effective_latents(weight: Float[Tensor, " d_sae"] | Int[Tensor, " d_sae"]) -> Float64[Tensor, ""]:
    """2^H, H = −Σ p log₂ p in bits, p = weight / Σ weight: as many equally used latents would have this entropy.

    Args:
        weight: firings or energy Σf² of each latent, not negative.

    Source: the exponential of the entropy (Hill 1973, Ecology 54, order 1), plotted by OhhMoo SAE-RL.
    """
    shares = weight.double() / weight.double().sum()
    return torch.exp2(-torch.special.xlogy(shares, shares).sum() / torch.log(shares.new_tensor(2.0)))


class _Keyed(NamedTuple):
    """Entries sorted by key = prompt · d_sae + latent, each key once."""

    keys: Int64[Tensor, " entry"]
    firings: Int64[Tensor, " entry"]
    activation: Float64[Tensor, " entry"]


_NOTHING = _Keyed(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.float64))


def _keyed(codes: Codes, prompt_index: Tensor, d_sae: int) -> _Keyed:
    assert len(prompt_index) == codes.batch
    active = codes.active()
    keys = prompt_index.long()[active.rows()] * d_sae + active.latents
    summed = _summed(_Keyed(keys, torch.ones_like(keys), active.values.double()))
    return _Keyed(*(part.cpu() for part in summed))


def _summed(entries: _Keyed) -> _Keyed:
    """Entries of equal key in one, sorted; each sum is taken in the order of the entries, so it repeats to the bit."""
    if not len(entries.keys):
        return entries
    keys, order = torch.sort(entries.keys, stable=True)
    unique, counts = torch.unique_consecutive(keys, return_counts=True)
    columns = torch.stack([entries.firings.double(), entries.activation], dim=1)
    firings, activation = _segments(columns, order, counts.cumsum(0) - counts).unbind(1)
    return _Keyed(unique, firings.long(), activation)


def _merged(older: _Keyed, newer: _Keyed) -> _Keyed:
    """Both in one; only where their keys overlap is anything sorted, which rows in the order of prompts make small."""
    if not len(older.keys) or not len(newer.keys):
        return older if len(older.keys) else newer
    cut = int(torch.searchsorted(older.keys, newer.keys[0]))
    end = int(torch.searchsorted(newer.keys, older.keys[-1], right=True))
    zone = _summed(_Keyed(*(torch.cat([old[cut:], new[:end]]) for old, new in zip(older, newer, strict=True))))
    return _Keyed(*(torch.cat([old[:cut], mid, new[end:]]) for old, mid, new in zip(older, zone, newer, strict=True)))


def _by_prompt(rows: Tensor, entries: _Keyed, d_sae: int) -> FiringSums:
    offsets = torch.searchsorted(entries.keys, torch.arange(len(rows) + 1) * d_sae)
    latents = (entries.keys % d_sae).to(torch.int32)
    return FiringSums(rows, offsets, latents, entries.firings.to(torch.int32), entries.activation, d_sae)


def _by_key(sums: FiringSums) -> _Keyed:
    return _Keyed(sums.prompts() * sums.d_sae + sums.latents, sums.firings.long(), sums.activation)


def _row_counts(prompt_index: Tensor, n_prompts: int) -> Tensor:
    return torch.bincount(prompt_index.long().cpu(), minlength=n_prompts)


def _segments(columns: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    return torch.nn.functional.embedding_bag(order, columns, starts, mode="sum")
