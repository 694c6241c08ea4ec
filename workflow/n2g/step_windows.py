"""What latents of a step-level SAE do on sequences of tokens: each distinct one is encoded once, and read at its last token."""

from collections.abc import Sequence

import numpy as np
import torch

from sae_core.models.step_batch import StepBatch
from sae_core.models.step_sae import StepSAE
from workflow.batching import batches, padded
from workflow.n2g.windows import Window


class StepReader:
    """Activations of some latents; keeps what it has read, counts what it encodes."""

    def __init__(self, model: StepSAE, latents: Sequence[int], batch_tokens: int) -> None:
        """`batch_tokens`: of one pass, padding included."""
        self._model, self._latents, self._batch_tokens = model, list(latents), batch_tokens
        self._known: dict[Window, np.ndarray] = {}
        self.tokens = self.windows = 0
        """Tokens and sequences that went through the encoder, padding left out."""

    @torch.inference_mode()
    def read(self, asked: Sequence[Window]) -> list[np.ndarray]:
        """Activations [latent] of each sequence, float32."""
        new = [ids for ids in dict.fromkeys(asked) if ids not in self._known]
        lengths = [len(ids) for ids in new]
        place = self._model.autoencoder.latent_bias.device
        for batch in batches(range(len(new)), lengths, self._batch_tokens):
            ids = torch.from_numpy(padded([new[one] for one in batch]))
            length = torch.tensor([lengths[one] for one in batch])
            codes = self._model.encode(StepBatch(ids, torch.ones_like(length), length).to(place)).float()[:, self._latents]
            self._known |= dict(zip((new[one] for one in batch), codes.cpu().numpy(), strict=True))
            self.tokens += int(length.sum())
            self.windows += len(batch)
        return [self._known[ids] for ids in asked]

    def forget(self) -> None:
        """Give the memory of what was read back."""
        self._known.clear()
