"""The arrays of one job while they grow: what a killed job had finished is found and kept."""

import logging
import shutil
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from workflow.activations.passes import Form
from workflow.formats.files import replacing
from workflow.formats.shards import ShardWriter

log = logging.getLogger(__name__)


class PartialShards:
    """One array per layer in a scratch folder, and a file for every block of rows that they hold.

    Whole chunks go straight into the arrays. The file of a block holds the norms of its rows and the rows that do not fill a
    chunk yet; it is written after the chunks, so a block without its file is simply computed again, to the same bytes.
    """

    def __init__(self, scratch: Path, form: Form, rows: int) -> None:
        """Go on in `scratch` where it was left; `rows` is the size that every array will have."""
        self._scratch = scratch
        self._saved = self._finished_blocks(form)
        self.done_rows = sum(self._norms(path).shape[1] for path in self._saved)
        self._writers = [
            ShardWriter(
                self.array(layer), rows=rows, d_model=form.d_model, chunk_rows=form.chunk_rows, dtype=form.dtype, layer=layer,
                waiting=waiting, done=self.done_rows - (0 if waiting is None else len(waiting)),
            )
            for layer, waiting in zip(form.layers, self._waiting(len(form.layers)), strict=True)
        ]  # fmt: skip

    @property
    def done_blocks(self) -> int:
        """Blocks that need not be computed again."""
        return len(self._saved)

    def array(self, layer: int) -> Path:
        """Where the array of a layer grows."""
        return self._scratch / f"layer_{layer}.zarr"

    def add(self, rows: Tensor, norms: Tensor) -> None:
        """Keep the next block: rows [layer, row, d_model] in the stored format, norms [layer, row]."""
        for writer, values in zip(self._writers, rows, strict=True):
            writer.append(values)
        path = self._block_file(len(self._saved))
        tensors = {f"waiting_{index}": writer.waiting for index, writer in enumerate(self._writers)}
        with replacing(path) as temporary:
            save_file({"norms": norms.contiguous(), **tensors}, temporary)
        self._saved.append(path)

    def finish(self) -> np.ndarray:
        """Complete the arrays; the norms [layer, row] of all rows."""
        for writer in self._writers:
            writer.finish()
        return np.concatenate([self._norms(path) for path in self._saved], axis=1)

    def _finished_blocks(self, form: Form) -> list[Path]:
        saved = []
        while (path := self._block_file(len(saved))).is_file():
            saved.append(path)
        if saved and not all(self.array(layer).is_dir() for layer in form.layers):
            # it was killed between the renames that publish: what was published is removed by Snakemake, so all is made again
            log.warning("the arrays in %s are no longer complete, extraction starts over", self._scratch)
            shutil.rmtree(self._scratch)
            self._scratch.mkdir()
            return []
        return saved

    def _block_file(self, number: int) -> Path:
        return self._scratch / f"block_{number:05d}.safetensors"

    @staticmethod
    def _norms(path: Path) -> np.ndarray:
        with safe_open(path, framework="numpy") as tensors:
            return tensors.get_tensor("norms")

    def _waiting(self, layers: int) -> list[Tensor | None]:
        if not self._saved:
            return [None] * layers
        with safe_open(self._saved[-1], framework="pt") as tensors:
            return [tensors.get_tensor(f"waiting_{index}") for index in range(layers)]
