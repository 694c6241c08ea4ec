"""One block of texts through the model: batches of like length in, rows in the order of the texts out."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from workflow.batching import batches, padded, tokens_per_block
from workflow.formats.shards import DTYPES, checked
from workflow.formats.traces import Trace
from workflow.residuals import ResidualReader


class Texts(NamedTuple):
    """The texts of a shard as they are read."""

    names: list[str]
    """Trace ids."""
    tokens: list[np.ndarray]
    """Token ids, cut at activations.max_tokens."""
    lengths: list[int]
    """Tokens of each."""


class Form(NamedTuple):
    """What is read and how it is stored."""

    layers: tuple[int, ...]
    """Blocks whose output is read, in the order of the outputs."""
    d_model: int
    """Width of a row."""
    dtype: str
    """Stored number format."""
    batch_tokens: int
    """Tokens of one pass, padding included."""
    chunk_rows: int
    """Rows of one zarr chunk."""

    @property
    def block_tokens(self) -> int:
        """Tokens of one block."""
        return tokens_per_block(self.batch_tokens, len(self.layers) * self.d_model * DTYPES[self.dtype].itemsize)


def texts_of(traces: Sequence[Trace], max_tokens: int) -> Texts:
    """The texts of traces, each cut at `max_tokens`."""
    tokens = [np.asarray(trace.token_ids[:max_tokens]) for trace in traces]
    return Texts([trace.trace for trace in traces], tokens, list(map(len, tokens)))


def read_block(
    reader: ResidualReader, texts: Texts, block: range, form: Form, advance: Callable[[int], None]
) -> tuple[Tensor, Tensor]:
    """Rows [layer, row, d_model] of a block in the stored format and the order of its texts, and their norms [layer, row].

    Raises:
        ConfigError: a value is not finite, or outside the stored format; it names layer, trace and position.
    """
    starts = np.concatenate([[0], np.cumsum([texts.lengths[text] for text in block])])
    rows = torch.empty(len(form.layers), int(starts[-1]), form.d_model, dtype=DTYPES[form.dtype])
    norms = torch.empty(len(form.layers), int(starts[-1]))
    for batch in batches(block, texts.lengths, form.batch_tokens):
        ids = padded([texts.tokens[text] for text in batch])
        width = ids.shape[1]
        real = np.concatenate([row * width + np.arange(texts.lengths[text]) for row, text in enumerate(batch)])
        target = torch.from_numpy(np.concatenate([starts[text - block.start] + np.arange(texts.lengths[text]) for text in batch]))
        source = torch.from_numpy(real).to(reader.device)
        place = _placer([texts.names[text] for text in batch], real, width)
        for index, values in enumerate(reader.read(torch.from_numpy(ids).to(reader.device))):
            flat = values.reshape(-1, form.d_model).index_select(0, source)  # padding is left behind here
            stored, norm = checked(flat, DTYPES[form.dtype], form.layers[index], place)
            rows[index].index_copy_(0, target, stored.cpu())
            norms[index].index_copy_(0, target, norm.cpu())
        advance(len(real))
    return rows, norms


def _placer(names: list[str], real: np.ndarray, width: int) -> Callable[[int], str]:
    """Says for a row of a batch which trace and position it is."""
    return lambda row: f"trace {names[real[row] // width]}, position {real[row] % width}"
