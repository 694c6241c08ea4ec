"""What processes tell each other: sums, least values, and tensors laid side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar, final

import torch
from torch import Tensor, distributed

Number = TypeVar("Number", int, float)


@final
@dataclass(frozen=True)
class Ranks:
    """Processes that each hold a piece of something, this one among them. One alone sends nothing and gets back what it gave.

    Every method must be called by all of them, in the same order, and gives all of them the same bits. One that cannot reach
    another raises torch's `RuntimeError`, at the latest when the timeout of the group has passed.
    """

    index: int = 0
    """Number of this process, from 0."""
    size: int = 1
    """Processes."""
    group: "distributed.ProcessGroup | None" = None
    """None where there is one process only."""

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sum over the processes; the memory given may be overwritten with it."""
        if self.size == 1:
            return tensor
        total = tensor.contiguous()
        distributed.all_reduce(total, group=self.group)
        return total

    def sums(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The sums of several tensors of one type in one message."""
        if self.size == 1:
            return list(tensors)
        totals = self.sum_(torch.cat([tensor.reshape(-1) for tensor in tensors])).split([tensor.numel() for tensor in tensors])
        return [total.view(tensor.shape) for total, tensor in zip(totals, tensors, strict=True)]

    def least_(self, tensor: Tensor) -> Tensor:
        """Smallest over the processes, element by element; the tensor given is overwritten with it."""
        if self.size > 1:
            distributed.all_reduce(tensor, op=distributed.ReduceOp.MIN, group=self.group)
        return tensor

    def from_first_(self, tensor: Tensor) -> Tensor:
        """What the first process holds, written into the contiguous tensor given."""
        if self.size > 1:
            distributed.broadcast(tensor, group_src=0, group=self.group)
        return tensor

    def stacked(self, tensor: Tensor) -> Tensor:
        """The tensors of all, which are of one shape, in the order of the processes along a new first axis."""
        if self.size == 1:
            return tensor.unsqueeze(0)
        found = tensor.new_empty(self.size, *tensor.shape)
        distributed.all_gather(list(found.unbind(0)), tensor.contiguous(), group=self.group)
        return found

    def joined(self, tensor: Tensor) -> Tensor:
        """The tensors of all, one after the other along their first axis, in which they may differ."""
        if self.size == 1:
            return tensor
        lengths = self.numbers(len(tensor))
        padded = tensor if len(tensor) == max(lengths) else tensor.new_zeros(max(lengths), *tensor.shape[1:])
        if padded is not tensor:
            padded[: len(tensor)] = tensor
        return torch.cat([piece[:length] for piece, length in zip(self.stacked(padded), lengths, strict=True)])

    def at_first(self, tensor: Tensor) -> Tensor | None:
        """As `joined`, on the first process alone; None on the others, which need no memory for it."""
        if self.size == 1:
            return tensor
        lengths = self.numbers(len(tensor))
        if self.index > 0:
            distributed.send(tensor.contiguous(), group_dst=0, group=self.group)
            return None
        whole = tensor.new_empty(sum(lengths), *tensor.shape[1:])
        mine, *others = whole.split(lengths)
        mine.copy_(tensor)
        for number, piece in enumerate(others, 1):
            distributed.recv(piece, group_src=number, group=self.group)
        return whole

    def numbers(self, number: Number) -> list[Number]:
        """The numbers of all, sent from host to host: no device is waited for."""
        if self.size == 1:
            return [number]
        kind = torch.int64 if isinstance(number, int) else torch.float64
        return self.stacked(torch.tensor(number, dtype=kind, device="cpu")).tolist()

    def any(self, flag: bool) -> bool:
        """Whether it holds for one of them."""
        return sum(self.numbers(int(flag))) > 0


ONE = Ranks()
"""A process alone."""
