"""One pass over a store: every SAE applied to each batch, everything summed by prompt."""

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from sae_core.kernels.codes import Codes
from sae_core.metrics.reconstruction import ReconstructionSums, reconstruction_sums
from sae_core.models.sae import SAE
from workflow.drift.masks import StageRows
from workflow.formats.activations import Store
from workflow.formats.drift import Pair

CENTRE_ROWS = 4096
"""Rows whose mean is the centre; fixed, so that no setting of memory moves a number."""


class Tally(NamedTuple):
    """How often each latent of one SAE fired on one store."""

    firings: Tensor
    """Rows on which it was active, int64 [d_sae]."""
    prompts: Tensor
    """Prompts with at least one such row, int64 [d_sae]."""
    activation: Tensor
    """Σ of its activations, float64 [d_sae]."""


class StoreResult(NamedTuple):
    """What one pass leaves."""

    sums: dict[tuple[Pair, str], ReconstructionSums]
    """By pair and sinks."""
    tallies: dict[Pair, Tally]
    """Of the pairs that were to be counted, sinks dropped."""


class LatentCounter:
    """Adds up a `Tally`; its size depends on prompts and latents, not on rows."""

    def __init__(self, n_prompts: int, d_sae: int, device: torch.device) -> None:
        self._firings = torch.zeros(d_sae, dtype=torch.int64, device=device)
        self._activation = torch.zeros(d_sae, dtype=torch.float64, device=device)
        self._fired = torch.zeros(n_prompts, d_sae, dtype=torch.bool, device=device)

    def add(self, codes: Codes, prompt: Tensor) -> None:
        """Count the active latents of some rows."""
        active = codes.active()
        latents, values = active.latents, active.values.double()
        self._fired[prompt[active.rows()], latents] = True
        order = torch.argsort(latents, stable=True)
        starts = torch.searchsorted(latents[order], torch.arange(len(self._firings), device=latents.device))
        self._firings += torch.diff(starts, append=starts.new_tensor([len(latents)]))
        # sums of sorted runs repeat to the bit on a GPU too, where scattered additions do not
        if len(latents):
            self._activation += torch.nn.functional.embedding_bag(order, values[:, None], starts, mode="sum")[:, 0]

    def tally(self) -> Tally:
        """The counts so far, on the CPU."""
        return Tally(self._firings.cpu(), self._fired.sum(0).cpu(), self._activation.cpu())


def centre_of(store: Store, rows: StageRows) -> Tensor:
    """The mean of the first kept rows of a store, float64 [d_model]."""
    for batch, where in store.sequential(CENTRE_ROWS):
        if (keep := rows.keep[where]).any():
            return batch[torch.from_numpy(keep)].double().mean(0)
    raise AssertionError("rows were checked to leave some")


@torch.inference_mode()
def measure_store(
    *,
    store: Store,
    rows: StageRows,
    n_prompts: int,
    centre: Tensor,
    saes: Mapping[Pair, SAE],
    counted: Collection[Pair],
    batch_rows: int,
    device: torch.device,
    advance: Callable[[int], None] = lambda rows: None,
) -> StoreResult:
    """Sums per prompt of all SAEs on one store, read once.

    Args:
        store: all rows of the split.
        rows: prompt and mask of each of them.
        n_prompts: prompts of the measurement.
        centre: c of the sums, on the CPU.
        saes: SAE of each pair, on `device`.
        counted: pairs whose latents are counted.
        batch_rows: rows encoded together.
        device: where the tensors live.
        advance: told of finished rows.
    """
    zeros = ReconstructionSums.zeros(n_prompts, store.d_model, device)
    parts = {(pair, kept): _without_xc(zeros) for pair in saes for kept in (True, False)}
    xc = {True: zeros.xc, False: zeros.xc}
    counters = {pair: LatentCounter(n_prompts, saes[pair].config.d_sae, device) for pair in counted}
    prompts, keep = torch.from_numpy(rows.prompt), torch.from_numpy(rows.keep)
    centre = centre.to(device)
    for batch, where in store.sequential(batch_rows):
        for kept in (True, False):
            chosen = keep[where] == kept
            if not chosen.any():
                continue
            x, prompt = batch[chosen].to(device), prompts[where][chosen].to(device)
            for pair, sae in saes.items():
                codes = sae.encode(x)
                sums = reconstruction_sums(x, sae.decode(codes, x), prompt, n_prompts, centre, codes.active_per_row())
                parts[pair, kept] += _without_xc(sums)
                if kept and pair in counters:
                    counters[pair].add(codes, prompt)
            xc[kept] = xc[kept] + sums.xc
        advance(len(batch))
    by_sinks = {(pair, "dropped"): parts[pair, True]._replace(xc=xc[True]) for pair in saes}
    by_sinks |= {(pair, "included"): (parts[pair, True] + parts[pair, False])._replace(xc=xc[True] + xc[False]) for pair in saes}
    return StoreResult(by_sinks, {pair: counter.tally() for pair, counter in counters.items()})


def _without_xc(sums: ReconstructionSums) -> ReconstructionSums:
    """The sums without their one large field, which is the same for all SAEs and kept once."""
    return sums._replace(xc=sums.xc[:, :0])
