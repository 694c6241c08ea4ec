"""Sink rows: what they carry is found from the sums, and SAEs that do not know them measure nothing."""

import pandas as pd
import pytest
import torch

from sae_core.metrics.reconstruction import reconstruction_sums
from workflow.drift.estimates import ROOT, Measurement
from workflow.drift.sinks import described, known, sink_rows
from workflow.formats.drift import DriftSums, named_tensors

PROMPTS, WIDTH = 20, 8


def measured(x: torch.Tensor, x_hat: torch.Tensor, sink: torch.Tensor) -> Measurement:
    """Base alone, of 20 prompts that have equally many rows."""
    prompt, centre = torch.arange(len(x)) % PROMPTS, x[~sink].mean(0)
    lines = {
        "included": reconstruction_sums(x, x_hat, prompt, PROMPTS, centre),
        "dropped": reconstruction_sums(x[~sink], x_hat[~sink], prompt[~sink], PROMPTS, centre),
    }
    manifest = {"stages": [["base", 0]], "chains": ["real"], "problems": [f"p{i}" for i in range(PROMPTS)]}
    sums = DriftSums(manifest, named_tensors({(ROOT, sinks): found for sinks, found in lines.items()}))
    return Measurement(sums, 10, 0.95, seed=0)


@pytest.fixture
def rows() -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(600, WIDTH, generator=draw, dtype=torch.float64) + 2
    sink = torch.rand(600, generator=draw) < 0.05
    x[sink] = 100 * x[sink]
    return x, sink


def test_shares_and_error_of_sinks_are_those_of_their_rows(rows: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, sink = rows
    x_hat = x.clone()
    x_hat[sink] *= 0.9
    x_hat[~sink] += 0.3
    error, about = (x - x_hat).square().sum(1), (x - x.mean(0)).square().sum(1)
    own = (x[sink] - x[sink].mean(0)).square().sum()
    found = sink_rows(measured(x, x_hat, sink))
    wanted = [sink.double().mean(), about[sink].sum() / about.sum(), error[sink].sum() / error.sum(), error[sink].sum() / own]
    assert found == pytest.approx([float(value) for value in wanted], rel=1e-9)
    assert known(pd.DataFrame([found]))
    lost = sink_rows(measured(x, torch.where(sink.unsqueeze(1), x.mean(0), x_hat), sink))
    assert not known(pd.DataFrame([found, lost])), "one seed that does not know them is enough"


def test_sinks_that_are_one_vector_are_known_to_none_but_their_mean(rows: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, sink = rows
    x[sink] = 1e4 * torch.arange(1.0, WIDTH + 1, dtype=torch.float64)
    found = sink_rows(measured(x, 0.999 * x, sink))
    assert found.sink_nmse == float("inf")
    assert found.sink_variance == pytest.approx(1 - found.sink_rows, rel=1e-3), "two points with weights p and 1 − p"
    table = pd.DataFrame([found])
    assert not known(table)
    assert "they are all equal" in str(described(table))


def test_without_sinks_the_two_lines_are_one_and_there_is_nothing_to_say(rows: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, sink = rows
    found = sink_rows(measured(x, 0.9 * x, torch.zeros_like(sink)))
    assert found == (0.0, None, None, None)
    table = pd.DataFrame([found])
    assert known(table)
    assert described(table) is None
