"""Quality of an SAE on rows that it is not trained on."""

import torch

from sae_core.metrics.reconstruction import ReconstructionSums, mean_l0, nmse, reconstruction_sums
from sae_core.models.topk import TopKSAE
from sae_core.training.trainer import HeldOut
from workflow.formats.activations import Store

BATCH_ROWS = 2048


class HeldOutRows:
    """The held-out rows of one store, read anew for every epoch."""

    def __init__(self, store: Store) -> None:
        self.store = store
        first, _ = next(store.sequential(BATCH_ROWS))
        # any fixed vector near the rows' mean does, it drops out of the result
        self._centre = first.double().mean(0)

    @torch.no_grad()
    def quality(self, sae: TopKSAE) -> HeldOut:
        """Held-out nmse with one mean per dimension over all rows, and active latents per row."""
        device = sae.W_enc.device
        sums, centre = ReconstructionSums.zeros(1, self.store.d_model, device), self._centre.to(device)
        for rows, _ in self.store.sequential(BATCH_ROWS):
            x = rows.to(device)
            codes = sae.encode(x)
            together = torch.zeros(len(x), dtype=torch.int64, device=device)
            sums = sums + reconstruction_sums(x, sae.decode(codes), together, 1, centre, (codes.values != 0).sum(1))
        return HeldOut(float(nmse(sums)), float(mean_l0(sums)))
