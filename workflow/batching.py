"""How texts are put into forward passes: blocks of texts in their order, batches of like length within a block.

Both follow from the lengths of all texts of the shard alone, so a job that goes on after a kill runs the same passes.
"""

from collections.abc import Iterator, Sequence

import numpy as np

BLOCK_BYTES = 64 << 20
"""Rows of one block, all layers together: what a killed job loses at most, and what is held in memory."""

BATCHES_PER_BLOCK = 8
"""A block holds at least this many full batches, so that there are like lengths to be found."""


def tokens_per_block(batch_tokens: int, bytes_per_token: int) -> int:
    """Tokens after which a block ends."""
    return max(BLOCK_BYTES // bytes_per_token, BATCHES_PER_BLOCK * batch_tokens)


def blocks(lengths: Sequence[int], block_tokens: int) -> Iterator[range]:
    """Indices of texts, contiguous and in order, of at most `block_tokens` tokens per block (or one longer text)."""
    first = tokens = 0
    for index, length in enumerate(lengths):
        if index > first and tokens + length > block_tokens:
            yield range(first, index)
            first, tokens = index, 0
        tokens += length
    if len(lengths):
        yield range(first, len(lengths))


def batches(block: range, lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of the texts of each pass, long ones first; texts × longest ≤ `batch_tokens` (or one longer text)."""
    batch: list[int] = []
    for index in sorted(block, key=lambda text: -lengths[text]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def padded(texts: Sequence[Sequence[int] | np.ndarray]) -> np.ndarray:
    """Token ids [text, longest], padded on the right with token 0.

    In a causal model no token sees what stands behind it, so padding on the right needs no attention mask and changes no value
    in front of it, and passes keep the fast unmasked attention.
    """
    ids = np.zeros((len(texts), max(map(len, texts))), dtype=np.int64)
    for row, text in zip(ids, texts, strict=True):
        row[: len(text)] = text
    return ids
