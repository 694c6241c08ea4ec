"""Reasoning steps with what came before them, as step-level SAEs read them."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor


class StepBatch(NamedTuple):
    """Sequences `context, separator, step, end`, padded on the right; a row holds at least one step token beside the end."""

    ids: Int[Tensor, "batch pos"]
    """Token ids; behind `length` anything (padding)."""
    start: Int[Tensor, " batch"]
    """Index of the first step token: context tokens + 1."""
    length: Int[Tensor, " batch"]
    """Tokens that are no padding, the end included; the end stands at length − 1."""

    @property
    def real(self) -> Bool[Tensor, "batch pos"]:
        """What is no padding."""
        return self._pos < self.length[:, None]

    @property
    def predicted(self) -> Bool[Tensor, "batch pos"]:
        """Positions whose token the decoder is scored on: the step and the end."""
        return (self._pos >= self.start[:, None]) & self.real

    def context(self) -> "StepBatch":
        """Context and separator alone, without the columns that become empty; `start` stays, `length` is equal to it."""
        return StepBatch(self.ids[:, : int(self.start.max())], self.start, self.start)

    def to(self, device: torch.device) -> "StepBatch":
        """The same batch on another device."""
        return StepBatch(*(tensor.to(device, non_blocking=True) for tensor in self))

    @property
    def _pos(self) -> Int[Tensor, "1 pos"]:
        return torch.arange(self.ids.shape[1], device=self.ids.device)[None]
