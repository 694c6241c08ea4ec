"""What the functions of kernels.cpp are called with: addresses of tensors, and structures of them."""

import ctypes
from typing import ClassVar

import torch
from torch import Tensor

from sae_core.kernels.backend import Gradient


def address(tensor: Tensor | None, dtype: torch.dtype) -> int | None:
    """Where the numbers of a contiguous tensor on the CPU begin; None for none."""
    if tensor is None:
        return None
    assert tensor.dtype == dtype, "as the library reads it"
    assert tensor.is_contiguous(), "as the library reads it"
    assert not tensor.is_cuda, "as the library reads it"
    return tensor.data_ptr()


class Buffer:
    """A tensor as a parameter of a function."""

    dtype: ClassVar[torch.dtype]

    @classmethod
    def from_param(cls, tensor: Tensor | None) -> ctypes.c_void_p:
        return ctypes.c_void_p(address(tensor, cls.dtype))


class Floats(Buffer):
    dtype = torch.float32


class Rounded(Buffer):
    dtype = torch.bfloat16


class Ints(Buffer):
    dtype = torch.int64


class Tensors(ctypes.Structure):
    """Addresses by name; holds the tensors for as long as it lives."""

    dtypes: ClassVar[dict[str, torch.dtype]]

    def __init__(self, **tensors: Tensor) -> None:
        self._held = {name: tensor.contiguous() for name, tensor in tensors.items()}
        super().__init__(**{name: address(tensor, self.dtypes[name]) for name, tensor in self._held.items()})


class CopyTensors(Tensors):
    """Rows as whole numbers times a scale, with norms of the rows and of what the copy lacks."""

    dtypes: ClassVar = {"numbers": torch.int8, "scales": torch.float32, "sizes": torch.float32, "errors": torch.float32}
    _fields_: ClassVar = [(name, ctypes.c_void_p) for name in dtypes]


class Approximation(ctypes.Structure):
    """What is known of a product x · Wᵀ."""

    _fields_: ClassVar = [
        *((name, ctypes.c_void_p) for name in ("product", "known", "along")),
        *(("rank", ctypes.c_int64), ("x", CopyTensors), ("weights", CopyTensors)),
    ]

    @classmethod
    def of(
        cls, product: Tensor | None, known: Tensor | None, along: Tensor | None, x: CopyTensors, weights: CopyTensors
    ) -> "Approximation":
        """The structure; whoever calls keeps the tensors."""
        parts = address(product, torch.int32), address(known, torch.float32), address(along, torch.float32)
        return cls(*parts, 0 if along is None else along.shape[1], x, weights)


class GradientTensors(Tensors):
    """A gradient of a latent-major matrix: sums over entries with extra rows on top, or whole."""

    dtypes: ClassVar = {
        "offsets": torch.int64,
        "rows": torch.int64,
        "coefficients": torch.float32,
        "table": torch.float32,
        "slots": torch.int32,
        "extra": torch.float32,
        "whole": torch.float32,
    }
    _fields_: ClassVar = [(name, ctypes.c_void_p) for name in dtypes]

    @classmethod
    def of(cls, gradient: Gradient) -> "GradientTensors":
        """The structure for a gradient in either form."""
        if isinstance(gradient, Tensor):
            return cls(whole=gradient)
        entries, extra = gradient.entries, gradient.extra
        sums = {"offsets": entries.offsets, "rows": entries.rows, "coefficients": gradient.coefficients, "table": gradient.rows}
        if extra is None:
            return cls(**sums)
        slots = torch.full((len(entries.offsets) - 1,), -1, dtype=torch.int32)
        slots[extra.latents] = torch.arange(len(extra.latents), dtype=torch.int32)
        return cls(**sums, slots=slots, extra=extra.rows)


class StepNumbers(ctypes.Structure):
    """Numbers of one step of Adam."""

    _fields_: ClassVar = [
        *((name, ctypes.c_float) for name in ("size", "root", "beta1", "beta2", "eps", "shrink")),
        *((name, ctypes.c_int32) for name in ("unit_rows", "project")),
    ]
