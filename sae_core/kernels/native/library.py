"""The compiled library for this CPU, with the types of its functions declared."""

import ctypes
from ctypes import POINTER, c_char_p, c_double, c_int32, c_int64, c_void_p
from functools import cache
from typing import Any, Literal, TypeAlias, final

from sae_core.kernels.native import build
from sae_core.kernels.native.arguments import Approximation, CopyTensors, Floats, GradientTensors, Ints, Rounded, StepNumbers

Level: TypeAlias = Literal["avx512", "avx2", "portable"]
"""Instruction sets that libraries are compiled for."""

NAMES: dict[Level, str] = {"avx512": "AVX-512", "avx2": "AVX2", "portable": "no vector extensions"}
NEEDS: dict[Level, int] = {"avx512": 3, "avx2": 1, "portable": 0}
"""Bits of `sae_features` that must be set; the best instruction set first."""
HAS_INT8 = 4
"""The bit of products of int8."""
SHARES_THREADS = 8
"""The bit of work on the threads that torch has."""

OUT_OF_MEMORY = 1
TOO_MANY = 2

ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "sae_round": (Floats, c_int64, c_int64, Rounded, c_int64),
    "sae_copy": (Floats, c_int64, c_int64, POINTER(CopyTensors), c_int64),
    "sae_topk": (Floats, Floats, c_int64, c_int64, c_int64, c_int32, Ints, Floats, c_int64),
    "sae_topk_bf16": (Rounded, Floats, c_int64, c_int64, c_int64, c_int32, Ints, Floats, c_int64),
    "sae_topk_certain": (
        *(POINTER(Approximation), Floats, Floats, Floats, c_int64, c_int64, c_int64, c_int64, c_int32, c_int64),
        *(POINTER(c_int64), Ints, Floats, c_int64),
    ),
    "sae_transpose": (Ints, Ints, c_int64, c_int64, Ints, Ints, Ints, Ints),
    "sae_reconstruct": (Ints, Ints, Floats, Ints, Floats, Floats, Floats, c_int64, c_int64, Floats, Floats, c_int64),
    "sae_squared_norm": (POINTER(GradientTensors), c_int64, c_int64, POINTER(c_double), c_int64),
    "sae_adam": (
        *(POINTER(GradientTensors), POINTER(StepNumbers), Floats, Floats, Floats, Rounded),
        *(POINTER(CopyTensors), c_int64, c_int64, c_int64),
    ),
    "sae_count_above": (Floats, Floats, c_int64, c_int64, Ints, c_int64),
    "sae_above": (Floats, Floats, c_int64, c_int64, Ints, Ints, Floats, c_int64),
    "sae_batch_topk": (Floats, c_int64, c_int64, c_int64, Ints, Ints, Floats, c_int64),
}
"""Types of the parameters in kernels.cpp, in their order."""


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
            raise ValueError(f"{path.name} was compiled from another version of {build.SOURCE.name}")
        self.features = int(self.functions.sae_features())
        """Bits of what this CPU can do."""
        self.functions.sae_large_pages.argtypes = (c_void_p, c_int64)
        self.functions.sae_large_pages.restype = None
        for name, arguments in ARGUMENTS.items():
            function = getattr(self.functions, name)
            function.argtypes, function.restype, function.errcheck = arguments, c_int32, _checked


def _checked(status: int, function: Any, _: tuple[Any, ...]) -> int:
    if status == OUT_OF_MEMORY:
        raise MemoryError(f"{function.__name__} found no memory for its work")
    return status


@cache
def load(level: Level | None = None) -> Library | str:
    """The library of an instruction set, by default of the best that this CPU has and that is there; or why there is none."""
    try:
        features = Library("portable").features
        fitting: list[Level] = [name for name, needed in NEEDS.items() if features & needed == needed]
        chosen: Level = level or next(name for name in fitting if build.library_path(name).is_file())
        return Library(chosen) if chosen in fitting else f"this CPU has no {NAMES[chosen]}; use another level"
    except (OSError, ValueError) as problem:
        return f"{problem}; compile it here with `python -m {build.__name__}`"


def unavailable(level: Level | None = None) -> str | None:
    """Why the library cannot be used, or None where it can."""
    found = load(level)
    return found if isinstance(found, str) else None
