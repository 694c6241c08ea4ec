"""Seeds that follow from names, so that what is to draw alike in two places is named alike."""

import hashlib


def named_seed(name: str) -> int:
    """A seed below 2⁴⁸ that depends on the name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big")
