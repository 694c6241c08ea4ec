"""One pass over a store: every SAE applied to each batch, everything summed by prompt."""

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from sae_core.kernels.codes import Codes
from sae_core.metrics.firing import FiringCounter, FiringSums
from sae_core.metrics.reconstruction import ReconstructionSums, RowsByPrompt
from sae_core.metrics.threshold import matched_threshold, threshold_codes
from sae_core.models.reading import Reader
from sae_core.models.sae import SAE
from sae_core.models.topk import TopKSAE
from workflow.drift.kept_codes import CodesWriter
from workflow.drift.views import THRESHOLD, View
from workflow.formats.activations import Store
from workflow.formats.drift import Pair
from workflow.formats.masks import StageRows

CENTRE_ROWS = 4096
"""Rows whose mean is the centre; fixed, so that no setting of memory moves a number."""


class StoreResult(NamedTuple):
    """What one pass leaves."""

    sums: dict[tuple[Pair, str], ReconstructionSums]
    """By pair and sinks."""
    firings: dict[View, FiringSums]
    """Of the views that were to be counted, sinks dropped."""


class Fixed(NamedTuple):
    """What is taken from the first kept rows of base, for all stores."""

    centre: Tensor
    """c of the sums, their mean: float64 [d_model]."""
    threshold: Tensor | None
    """Under which S_0 is as dense on them as by its own rule; None where its own rule is a threshold already."""


@torch.inference_mode()
def fixed_of(store: Store, rows: StageRows, sae: SAE) -> Fixed:
    """Centre and threshold from the store of base and its SAE."""
    for batch, where in store.sequential(CENTRE_ROWS):
        if (keep := rows.keep[where]).any():
            x = batch[torch.from_numpy(keep)]
            threshold = matched_threshold(sae, x.to(sae.W_enc.device)) if isinstance(sae, TopKSAE) else None
            return Fixed(x.double().mean(0), threshold)
    raise AssertionError("rows were checked to leave some")


@torch.inference_mode()
def measure_store(
    *,
    store: Store,
    rows: StageRows,
    n_prompts: int,
    fixed: Fixed,
    saes: Mapping[Pair, Reader],
    counted: Collection[View],
    codes_of: Mapping[Pair, CodesWriter],
    batch_rows: int,
    device: torch.device,
    advance: Callable[[int], None] = lambda rows: None,
) -> StoreResult:
    """Sums per prompt of all SAEs on one store, read once.

    Args:
        store: all rows of the split.
        rows: prompt and mask of each of them.
        n_prompts: prompts of the measurement.
        fixed: what is common to all stores.
        saes: SAE of each pair, on `device`.
        counted: views whose latents are counted, of these pairs.
        codes_of: where codes of kept rows are to be written, by pair.
        batch_rows: rows encoded together.
        device: where the tensors live.
        advance: told of finished rows.
    """
    zeros = ReconstructionSums.zeros(n_prompts, store.d_model, device)
    parts = {(pair, kept): _without_xc(zeros) for pair in saes for kept in (True, False)}
    xc = {True: zeros.xc, False: zeros.xc}
    counters = {view: FiringCounter(n_prompts, saes[view.pair].sae.config.d_sae) for view in counted}
    prompts, keep, centre = torch.from_numpy(rows.prompt), torch.from_numpy(rows.keep), fixed.centre.to(device)
    for batch, where in store.sequential(batch_rows):
        for kept in (True, False):
            chosen = keep[where] == kept
            if not chosen.any():
                continue
            x, prompt = batch[chosen].to(device), prompts[where][chosen].to(device)
            by_prompt = RowsByPrompt(x, prompt, n_prompts, centre)
            for pair, reader in saes.items():
                codes = reader.encode(x)
                sums = by_prompt.sums(reader.sae.decode(codes, x), codes.active_per_row())
                parts[pair, kept] += _without_xc(sums)
                if kept and pair in codes_of:
                    codes_of[pair].add(codes)
                if kept and View(pair) in counters:
                    counters[View(pair)].add(codes, prompt)
                if kept and View(pair, THRESHOLD) in counters:
                    counters[View(pair, THRESHOLD)].add(_under_threshold(reader.sae, x, fixed.threshold), prompt)
            xc[kept] = xc[kept] + sums.xc
        advance(len(batch))
    by_sinks = {(pair, "dropped"): parts[pair, True]._replace(xc=xc[True]) for pair in saes}
    by_sinks |= {(pair, "included"): (parts[pair, True] + parts[pair, False])._replace(xc=xc[True] + xc[False]) for pair in saes}
    return StoreResult(by_sinks, {view: counter.sums() for view, counter in counters.items()})


def _under_threshold(sae: SAE, x: Tensor, threshold: Tensor | None) -> Codes:
    assert isinstance(sae, TopKSAE)
    assert threshold is not None
    return threshold_codes(sae, x, threshold.to(x))


def _without_xc(sums: ReconstructionSums) -> ReconstructionSums:
    """The sums without their one large field, which is the same for all SAEs and kept once."""
    return sums._replace(xc=sums.xc[:, :0])
