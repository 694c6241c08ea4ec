"""For rows that fit in memory: batches in a seeded order, and the quality on held-out rows."""

import hashlib
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.metrics.reconstruction import ReconstructionSums, mean_l0, nmse, reconstruction_sums
from sae_core.models.sae import SAE
from sae_core.training.parallel import ALONE, Parallel
from sae_core.training.records import HeldOut
from sae_core.training.sharded import reconstruct

HELD_OUT_BATCH = 2048
"""Held-out rows encoded together; it changes memory, not results."""


def batches_of(
    rows: Float[Tensor, "row d_model"], batch: int, seed: int, done: int = 0
) -> Iterator[Float[Tensor, "batch d_model"]]:
    """Batches without end: every pass in a new order, rows that do not fill a batch left out of that pass.

    Args:
        seed: of the orders; pass n is keyed by (seed, n), so that a training can go on anywhere.
        done: updates already done; the stream goes on behind them.

    Raises:
        ValueError: there are fewer rows than a batch.
    """
    per_pass = len(rows) // batch
    if not per_pass:
        raise ValueError(f"There must be at least a batch of {batch} rows; got {len(rows)}. Give more rows, or lower the batch.")
    turn, first = divmod(done, per_pass)
    while True:
        draw = torch.Generator().manual_seed(_mixed(seed, turn))
        order = torch.randperm(len(rows), generator=draw)[: per_pass * batch].view(per_pass, batch)
        for places in order[first:]:
            yield rows[places.to(rows.device)]
        turn, first = turn + 1, 0


def quality_on(rows: Float[Tensor, "row d_model"], parallel: Parallel = ALONE) -> Callable[[SAE], HeldOut]:
    """A function that tells nmse and l0 of an SAE on these rows; of one that several processes share, if all give the same rows."""
    centre = rows.double().mean(0)

    @torch.no_grad()
    def quality(sae: SAE) -> HeldOut:
        device = sae.W_enc.device
        sums = ReconstructionSums.zeros(1, rows.shape[1], device)
        for part in rows.split(HELD_OUT_BATCH):
            x = part.to(device)
            found = reconstruct(sae, x, parallel)
            together = torch.zeros(len(x), dtype=torch.int64, device=device)
            sums = sums + reconstruction_sums(x, found.rows, together, 1, centre.to(device), found.active_per_row)
        return HeldOut(float(nmse(sums)), float(mean_l0(sums)))

    return quality


def _mixed(seed: int, turn: int) -> int:
    """One seed from two numbers, the same in every process."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{turn}".encode()).digest()[:6], "big")
