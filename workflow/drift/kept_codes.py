"""Codes of the first pass as they wait on disk for the second, so that no row is encoded twice by the same SAE.

Active entries alone, in the order of rows: one flat file of latents, one of activations, one of how many each row has. They take 8
bytes per active latent and live in the scratch folder of the job.
"""

import os
from pathlib import Path
from typing import BinaryIO, final

import numpy as np
import torch
from torch import Tensor

from sae_core.kernels.codes import Codes

PARTS = {"active": np.int32, "latents": np.int32, "values": np.float32}
"""What each file holds: active latents per row; the latent and the activation of each entry."""


def _files(folder: Path) -> dict[str, Path]:
    return {part: folder / f"{part}.bin" for part in PARTS}


@final
class CodesWriter:
    """Writes the codes of a stream of rows into a folder, within `with`; what was there before is overwritten."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._streams: dict[str, BinaryIO] = {part: file.open("wb") for part, file in _files(folder).items()}

    def __enter__(self) -> "CodesWriter":
        return self

    def __exit__(self, *error: object) -> None:
        """Bring everything to the disk."""
        for stream in self._streams.values():
            stream.flush()
            os.fsync(stream.fileno())
            stream.close()

    def add(self, codes: Codes) -> None:
        """Codes of the rows that come next."""
        active = codes.active()
        written = {"active": active.offsets.diff(), "latents": active.latents, "values": active.values}
        for part, kind in PARTS.items():
            self._streams[part].write(written[part].cpu().numpy().astype(kind, copy=False).tobytes())


@final
class CodesReader:
    """Gives the codes of a folder back, from its first row on."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._folder, self._device, self._rows, self._entries = folder, device, 0, 0

    def take(self, rows: int) -> Codes:
        """Codes of the next rows, without entries that are 0."""
        active = self._read("active", self._rows, rows).long()
        offsets = torch.zeros(rows + 1, dtype=torch.int64)
        torch.cumsum(active, 0, out=offsets[1:])
        latents, values = (self._read(part, self._entries, int(offsets[-1])) for part in ("latents", "values"))
        self._rows, self._entries = self._rows + rows, self._entries + int(offsets[-1])
        return Codes(offsets.to(self._device), latents.long().to(self._device), values.to(self._device))

    def _read(self, part: str, first: int, count: int) -> Tensor:
        kind = np.dtype(PARTS[part])
        found = np.fromfile(_files(self._folder)[part], kind, count, offset=first * kind.itemsize)
        assert len(found) == count, "as many were written"
        return torch.from_numpy(found)
