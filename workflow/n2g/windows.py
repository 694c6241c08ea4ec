"""What latents do in windows of text: forward passes that stop at the SAE's layer, each distinct window read once.

A window is a list of token ids; one that begins another one is read with it, for no token sees what stands behind it. `MEAN` in the
place of an id stands for the mean embedding.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sae_core.models.sae import SAE
from workflow.batching import batches, padded
from workflow.residuals import ResidualReader

MEAN = -1
Window = tuple[int, ...]


class Asked(NamedTuple):
    """A window and the places whose activations are wanted."""

    ids: Window
    places: tuple[int, ...]


class WindowReader:
    """Activations of some latents in windows; counts what it reads. A context manager, it leaves no hooks behind."""

    def __init__(
        self, *, model: PreTrainedModel, layer: int, sae: SAE, latents: Sequence[int], stored: torch.dtype, batch_tokens: int,
        mean: Tensor | None = None,
    ) -> None:  # fmt: skip
        """
        Args:
            model: the policy.
            layer: whose output the SAE reads.
            sae: on the policy's device.
            latents: which of its latents.
            stored: number format of the store, to which rows are rounded as there.
            batch_tokens: tokens of one pass, padding included.
            mean: the mean embedding [d_model], where `MEAN` is used.
        """
        self._reader, self._sae, self._stored, self._batch_tokens = ResidualReader(model, [layer]), sae, stored, batch_tokens
        self._column = torch.full((sae.config.d_sae,), -1, device=sae.W_enc.device)
        self._column[list(latents)] = torch.arange(len(latents), device=self._column.device)
        self._latents, self._mean = len(latents), mean
        self._where: Tensor | None = None
        embedding: Any = model.get_input_embeddings()
        self._handle = embedding.register_forward_hook(self._with_mean)
        self.tokens = self.windows = 0
        """Tokens and windows that went through the policy, padding left out."""

    def __enter__(self) -> "WindowReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()
        self._reader.__exit__()

    def read(self, asked: Sequence[Asked]) -> list[np.ndarray]:
        """Activations [place, latent] of each window asked for, float32, in their order."""
        order = sorted(range(len(asked)), key=lambda one: asked[one].ids)
        carrier = dict(zip(order[-1:], order[-1:], strict=True))
        for one, behind in reversed(list(pairwise(order))):
            same = asked[behind].ids[: len(asked[one].ids)] == asked[one].ids
            carrier[one] = carrier[behind] if same else one
        wanted: dict[int, set[int]] = {}
        for one in order:
            wanted.setdefault(carrier[one], set()).update(asked[one].places)
        found = self._activations({one: (asked[one].ids, sorted(places)) for one, places in wanted.items()})
        return [np.stack([found[carrier[one]][place] for place in asked[one].places]) for one in range(len(asked))]

    def _activations(self, windows: dict[int, tuple[Window, list[int]]]) -> dict[int, dict[int, np.ndarray]]:
        names = list(windows)
        lengths = [len(windows[name][0]) for name in names]
        found: dict[int, dict[int, np.ndarray]] = {}
        for batch in batches(range(len(names)), lengths, self._batch_tokens):
            chosen = [windows[names[one]] for one in batch]
            rows = np.concatenate([np.full(len(places), at) for at, (_, places) in enumerate(chosen)])
            values = self._forward([ids for ids, _ in chosen], rows, np.concatenate([places for _, places in chosen]))
            start = 0
            for one, (_, places) in zip(batch, chosen, strict=True):
                found[names[one]] = dict(zip(places, values[start : start + len(places)], strict=True))
                start += len(places)
            self.tokens += sum(len(ids) for ids, _ in chosen)
            self.windows += len(chosen)
        return found

    @torch.inference_mode()
    def _forward(self, windows: Sequence[Window], rows: np.ndarray, places: np.ndarray) -> np.ndarray:
        ids = torch.from_numpy(padded(windows)).to(self._reader.device)
        self._where = ids == MEAN
        residual = self._reader.read(ids.clamp_min(0))[0][torch.from_numpy(rows), torch.from_numpy(places)]
        return self.encoded(residual.to(self._stored).float())

    @torch.inference_mode()
    def encoded(self, rows: Tensor) -> np.ndarray:
        """Activations [row, latent] of rows [row, d_model] as they are stored; what is negative counts as none."""
        codes = self._sae.encode(rows.to(self._sae.W_enc.device))
        column = self._column[codes.latents]
        kept, dense = column >= 0, rows.new_zeros(len(rows), self._latents, device=column.device)
        dense[codes.rows()[kept], column[kept]] = codes.values[kept].float()
        return dense.clamp_min(0).cpu().numpy()

    def _with_mean(self, module: nn.Module, inputs: object, output: Tensor) -> Tensor | None:
        if self._where is None or self._mean is None or not bool(self._where.any()):
            return None
        return torch.where(self._where[..., None], self._mean.to(output), output)


def mean_embedding(model: PreTrainedModel, tokens: np.ndarray) -> Tensor:
    """The mean input embedding of tokens, each as often as it occurs: [d_model], float32."""
    embedding: Any = model.get_input_embeddings()
    ids, counts = np.unique(tokens, return_counts=True)
    rows = embedding.weight[torch.from_numpy(ids).long().to(embedding.weight.device)].detach().float()
    return (rows * torch.from_numpy(counts / counts.sum()).to(rows)[:, None]).sum(0)
