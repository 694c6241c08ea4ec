"""Calls of kernels from Python, where Triton's own types end."""

from typing import Any


def launch(kernel: Any, grid: tuple[int, ...], *arguments: object, warps: int, **constants: object) -> None:
    """Start a kernel.

    Args:
        kernel: a function under `triton.jit`.
        grid: programs along each axis.
        arguments: tensors, numbers, or None where a kernel does without.
        warps: of a program, 32 threads each.
        constants: what the kernel is compiled for.
    """
    kernel[grid](*arguments, num_warps=warps, **constants)


def power_of_two(least: int) -> int:
    """The smallest power of two that is no smaller: the sizes that blocks of a kernel can have."""
    return 1 << max(least - 1, 0).bit_length()


def share_of(total: int, part: int) -> int:
    """Parts that cover a total."""
    return -(-total // part)
