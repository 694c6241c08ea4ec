"""Quality of SAEs on rows that they are not trained on."""

from collections.abc import Mapping

import torch
from torch import Tensor

from sae_core.metrics.reconstruction import ReconstructionSums, mean_l0, nmse, reconstruction_sums
from sae_core.models.sae import SAE
from sae_core.training.records import HeldOut
from workflow.formats.activations import Store

BATCH_ROWS = 2048


class HeldOutRows:
    """The held-out rows of one store, read anew for every epoch, once for all SAEs that ask."""

    def __init__(self, store: Store) -> None:
        self.store = store
        first, _ = next(store.sequential(BATCH_ROWS))
        # any fixed vector near the rows' mean does, it drops out of the result
        self._centre = first.double().mean(0)

    @torch.no_grad()
    def qualities(self, saes: Mapping[str, SAE]) -> dict[str, HeldOut]:
        """Held-out nmse with one mean per dimension over all rows, and active latents per row, of each SAE."""
        sums = {name: ReconstructionSums.zeros(1, self.store.d_model, sae.W_enc.device) for name, sae in saes.items()}
        for rows, _ in self.store.sequential(BATCH_ROWS):
            for name, sae in saes.items():
                sums[name] = sums[name] + self._sums(sae, rows.to(sae.W_enc.device))
        return {name: HeldOut(float(nmse(found)), float(mean_l0(found))) for name, found in sums.items()}

    def _sums(self, sae: SAE, x: Tensor) -> ReconstructionSums:
        codes, together = sae.encode(x), torch.zeros(len(x), dtype=torch.int64, device=x.device)
        return reconstruction_sums(x, sae.decode(codes, x), together, 1, self._centre.to(x.device), codes.active_per_row())
