"""Integers that order as numbers do, and the k-th largest of them: a selection without sorting, the same on every run."""

from typing import no_type_check

import triton
import triton.language as tl

ABSENT = tl.constexpr(-2147483648)
"""Below the key of every number."""
ALL_BITS = 32
"""Steps after which the k-th largest key is exact; fewer leave its last bits 0, and with them a key that is not larger."""


@triton.jit
@no_type_check
def key_of(number):
    """Larger for larger numbers, largest for NaN."""
    bits = number.to(tl.int32, bitcast=True)
    return tl.where(number == number, tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits), 0x7FFFFFFF)


@triton.jit
@no_type_check
def ranked(z, ABSOLUTE):
    """What z is ranked by."""
    if ABSOLUTE:
        return tl.abs(z)
    else:
        return z


@triton.jit
@no_type_check
def kth_largest(keys, k, STEPS):
    """The k-th largest key, bit by bit from the sign on; ABSENT if there are fewer than k."""
    found = tl.cast(ABSENT, tl.int32)
    bit = found
    for _ in range(STEPS):
        higher = found ^ bit
        found = tl.where(tl.sum((keys >= higher).to(tl.int32), 0) >= k, higher, found)
        bit = (bit >> 1) & 0x7FFFFFFF
    return found
