"""Codes that wait on disk come back as they were, batch by batch, whatever the batches were and will be."""

from pathlib import Path

import pytest
import torch

from sae_core.kernels.codes import Codes
from workflow.drift.kept_codes import CodesReader, CodesWriter

ROWS, LATENTS = 90, 70_000
CPU = torch.device("cpu")


def dense() -> torch.Tensor:
    """Codes with rows that have none, and numbers as large and as small as float32 holds."""
    draw = torch.Generator().manual_seed(0)
    values = torch.zeros(ROWS, LATENTS)
    for row in range(0, ROWS, 2):
        chosen = torch.randperm(LATENTS, generator=draw)[: row % 7]
        values[row, chosen] = torch.randn(row % 7, generator=draw) * 10.0 ** (row - 38)
    return values


def codes_of(values: torch.Tensor) -> Codes:
    """Active entries, and in every row one that is 0."""
    places = values != 0
    places[:, 1] = True
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), places.sum(1).cumsum(0)])
    return Codes(offsets, places.nonzero()[:, 1], values[places])


@pytest.mark.parametrize("written", [7, 64, 1000])
@pytest.mark.parametrize("read", [1, 33, 1000])
def test_codes_come_back_without_the_inactive(tmp_path: Path, written: int, read: int) -> None:
    values = dense()
    with CodesWriter(tmp_path / "codes") as writer:
        for part in values.split(written):
            writer.add(codes_of(part))
    reader = CodesReader(tmp_path / "codes", CPU)
    found = [reader.take(len(part)) for part in values.split(read)]
    assert torch.equal(torch.cat([one.dense(LATENTS) for one in found]), values)
    assert sum(len(one.values) for one in found) == int((values != 0).sum())
    assert reader.take(0).batch == 0


def test_what_a_killed_job_left_is_overwritten(tmp_path: Path) -> None:
    values = dense()
    for rows in (values, values[10:12]):
        with CodesWriter(tmp_path) as writer:
            writer.add(codes_of(rows))
    assert torch.equal(CodesReader(tmp_path, CPU).take(2).dense(LATENTS), values[10:12])
    with pytest.raises(AssertionError, match="as many were written"):
        CodesReader(tmp_path, CPU).take(3)
