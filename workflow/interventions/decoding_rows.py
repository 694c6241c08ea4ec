"""A policy that writes with other rows at one layer, token by token behind its cache."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from workflow.formats.activations import RowFilter
from workflow.interventions.measuring import Replace
from workflow.language_model import blocks


class RowsReplaced:
    """While it lasts, kept rows of one layer's output are replaced in every pass of a model, prompt and response alike.

    Kept are rows of tokens, not of padding, at position ≥ skip_positions with a norm ≤ max_norm_multiple × `median_norm`: the row
    filter, with the median of a store, because rows that are just being written have none of their own.
    """

    def __init__(self, model: PreTrainedModel, layer: int, replace: Replace, keep: RowFilter, median_norm: float) -> None:
        """`layer` counts from 0; `replace` is handed kept rows [row, d_model] in float32."""
        self._model, self._block, self._replace = model, blocks(model)[layer], replace
        self._skip, self._largest = keep.skip_positions, keep.max_norm_multiple * median_norm
        self._there = torch.empty(0)

    def __enter__(self) -> "RowsReplaced":
        note = self._model.register_forward_pre_hook(self._note, with_kwargs=True)
        self._handles = [note, self._block.register_forward_hook(self._put)]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _note(self, module: nn.Module, arguments: Any, given: dict[str, Any]) -> None:
        """Which tokens of this pass are no padding and stand late enough: bool [text, token]."""
        ids = given["input_ids"]
        width = ids.shape[1]
        positions, mask = given.get("position_ids"), given.get("attention_mask")
        if positions is None:
            positions = torch.arange(width, device=ids.device).expand_as(ids)
        self._there = positions >= self._skip
        if mask is not None:
            self._there = self._there & mask[:, -width:].bool()

    def _put(self, module: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        residual = output if isinstance(output, Tensor) else output[0]
        rows = residual.float()
        chosen = self._there & (torch.linalg.vector_norm(rows, dim=-1) <= self._largest)
        changed = residual.clone()
        if chosen.any():
            changed[chosen] = self._replace(rows[chosen]).to(residual.dtype)
        return changed if isinstance(output, Tensor) else (changed, *output[1:])
