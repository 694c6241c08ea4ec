"""The compiled library for this CPU, with the types of its functions declared."""

import ctypes
from ctypes import POINTER, c_char_p, c_double, c_float, c_int32, c_int64, c_void_p
from functools import cache
from typing import Any, Literal, TypeAlias, final, get_args

import torch
from torch import Tensor

from sae_core.kernels.native import build

Level: TypeAlias = Literal["avx512", "avx2", "portable"]
"""Instruction sets that libraries are compiled for, the best first."""

NAMES = {"avx512": "AVX-512", "avx2": "AVX2", "portable": "no vector extensions"}
NEEDS = {"avx512": 3, "avx2": 1, "portable": 0}
"""Bits of `sae_features` that must be set."""
HAS_BF16 = 4
"""The bit of products of bfloat16."""

OUT_OF_MEMORY = 1
TOO_MANY = 2


class Buffer:
    """A contiguous tensor on the CPU, handed over as the address of its numbers; None as no address."""

    dtype: torch.dtype

    @classmethod
    def from_param(cls, tensor: Tensor | None) -> c_void_p:
        if tensor is None:
            return c_void_p(None)
        assert tensor.dtype == cls.dtype and tensor.is_contiguous() and not tensor.is_cuda, "as the library reads it"
        return c_void_p(tensor.data_ptr())


class Floats(Buffer):
    dtype = torch.float32


class Rounded(Buffer):
    dtype = torch.bfloat16


class Ints(Buffer):
    dtype = torch.int64


class Slots(Buffer):
    dtype = torch.int32


class GradientArguments(ctypes.Structure):
    """A gradient of a latent-major matrix, as sums over entries or whole."""

    _fields_ = [(name, c_void_p) for name in ("offsets", "rows", "coefficients", "table", "slots", "extra", "whole")]


class StepArguments(ctypes.Structure):
    """Numbers of one step of Adam."""

    _fields_ = [(name, c_float) for name in ("size", "root", "beta1", "beta2", "eps", "shrink")] + [
        (name, c_int32) for name in ("unit_rows", "project")
    ]


class FactorArguments(ctypes.Structure):
    """One factor of a product whose rounding is accounted for."""

    _fields_ = [(name, c_void_p) for name in ("rows", "sizes", "errors")]


ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "sae_round": (Floats, c_int64, c_int64, Rounded, Floats, Floats, c_int64),
    "sae_topk": (Floats, Floats, c_int64, c_int64, c_int64, c_int32, Ints, Floats, c_int64),
    "sae_topk_bf16": (Rounded, Floats, c_int64, c_int64, c_int64, c_int32, Ints, Floats, c_int64),
    "sae_topk_certain": (
        *(Rounded, Floats, POINTER(FactorArguments), POINTER(FactorArguments)),
        *(c_int64, c_int64, c_int64, c_int64, c_int32, c_int64, Ints, Floats, c_int64),
    ),
    "sae_transpose": (Ints, Ints, c_int64, c_int64, Ints, Ints, Ints, Ints),
    "sae_reconstruct": (Ints, Ints, Floats, Ints, Floats, Floats, Floats, c_int64, c_int64, Floats, Floats, c_int64),
    "sae_squared_norm": (POINTER(GradientArguments), c_int64, c_int64, POINTER(c_double), c_int64),
    "sae_adam": (
        *(POINTER(GradientArguments), POINTER(StepArguments), Floats, Floats, Floats, Rounded, Floats, Floats),
        *(c_int64, c_int64, c_int64),
    ),
    "sae_count_above": (Floats, Floats, c_int64, c_int64, Ints, c_int64),
    "sae_above": (Floats, Floats, c_int64, c_int64, Ints, Ints, Floats, c_int64),
    "sae_batch_topk": (Floats, c_int64, c_int64, c_int64, Ints, Ints, Floats, c_int64),
}


@final
class Library:
    """The functions of kernels.cpp as they were compiled for one instruction set."""

    def __init__(self, level: Level) -> None:
        """Load it.

        Raises:
            OSError: the file is missing or does not fit this system.
            ValueError: it was compiled from another source.
        """
        path = build.library_path(level)
        self.level: Level = level
        self.functions = ctypes.CDLL(str(path))
        self.functions.sae_source.restype = c_char_p
        if self.functions.sae_source().decode() != build.digest():
            raise ValueError(f"{path.name} was compiled from another version of kernels.cpp")
        self.functions.sae_large_pages.argtypes = (c_void_p, c_int64)
        self.functions.sae_large_pages.restype = None
        for name, arguments in ARGUMENTS.items():
            function = getattr(self.functions, name)
            function.argtypes, function.restype, function.errcheck = arguments, c_int32, _checked

    @property
    def features(self) -> int:
        """Bits of what this CPU can do."""
        return int(self.functions.sae_features())


def _checked(status: int, function: Any, _: tuple[Any, ...]) -> int:
    if status == OUT_OF_MEMORY:
        raise MemoryError(f"{function.__name__} found no memory for its work")
    return status


@cache
def load(level: Level | None = None) -> Library | str:
    """The library of an instruction set, of the best that this CPU has by default; or why there is none."""
    try:
        features = Library("portable").features
        for tried in [level] if level else get_args(Level):
            if features & NEEDS[tried] != NEEDS[tried]:
                reason = f"this CPU has not the instructions of {tried}"
                continue
            if level or build.library_path(tried).is_file():
                return Library(tried)
    except (OSError, ValueError) as problem:
        reason = str(problem)
    return f"{reason}; compile it here with `python -m sae_core.kernels.native.build`"


def unavailable(level: Level | None = None) -> str | None:
    """Why the library cannot be used, or None where it can."""
    found = load(level)
    return found if isinstance(found, str) else None
