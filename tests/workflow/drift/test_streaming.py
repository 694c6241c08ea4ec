"""One pass over a store: counts of latents, and repeatability on every device."""

import numpy as np
import pytest
import torch

from sae_core.kernels.codes import Codes, equally_many
from sae_core.models.build import initial
from sae_core.models.sae import SAE
from workflow.drift.masks import StageRows
from workflow.drift.measuring import choose_device
from workflow.drift.streaming import LatentCounter, StoreResult, measure_store
from workflow.formats.drift import Pair
from workflow.formats.saes import config_of

ROOT = Pair("real", "base", "base")
KINDS = ("topk", "topk_signed", "topk_absolute", "batchtopk", "matryoshka_batchtopk", "relu", "jumprelu", "gated")


class RowsInMemory:
    """Rows that need no file."""

    d_model = 8

    def __init__(self, rows: int) -> None:
        self.x = torch.randn(rows, self.d_model, generator=torch.Generator().manual_seed(0))

    def sequential(self, batch_rows: int):
        for start in range(0, len(self.x), batch_rows):
            yield self.x[start : start + batch_rows], slice(start, min(start + batch_rows, len(self.x)))


def sae_of(kind: str, x: torch.Tensor, **conventions: str) -> SAE:
    config = config_of(kind, 8, 24, k=4, widths=[6, 24], **conventions)
    sae = initial(config, x, seed=0, threshold=0.5)
    if kind.endswith("batchtopk"):
        sae.threshold.fill_(0.7)
    return sae


def measured(
    device: str, keep: np.ndarray | None = None, batch_rows: int = 64, kind: str = "topk", **conventions: str
) -> StoreResult:
    store = RowsInMemory(300)
    prompt = np.random.default_rng(0).integers(0, 7, 300)
    rows = StageRows(prompt, np.random.default_rng(1).random(300) < 0.8 if keep is None else keep)
    sae = sae_of(kind, store.x, **conventions).to(device)
    return measure_store(
        store=store, rows=rows, n_prompts=7, centre=torch.zeros(8, dtype=torch.float64), saes={ROOT: sae}, counted=[ROOT],
        batch_rows=batch_rows, device=torch.device(device),
    )  # fmt: skip


def test_a_latent_fires_where_its_code_is_not_zero_and_once_per_prompt():
    counter = LatentCounter(3, 4, torch.device("cpu"))
    counter.add(equally_many(torch.tensor([[0, 1], [0, 3]]), torch.tensor([[2.0, 0.0], [1.0, -3.0]])), torch.tensor([2, 2]))
    uneven = Codes(torch.tensor([0, 0, 2, 3]), torch.tensor([0, 1, 2]), torch.tensor([0.5, 0.0, 0.0]))
    counter.add(uneven, torch.tensor([1, 0, 1]))
    tally = counter.tally()
    assert tally.firings.tolist() == [3, 0, 0, 1]
    assert tally.prompts.tolist() == [2, 0, 0, 1]
    assert tally.activation.tolist() == [3.5, 0.0, 0.0, -3.0]


def test_counts_are_those_of_kept_rows_and_the_two_lines_differ_by_the_rest():
    keep = np.arange(300) >= 100
    result = measured("cpu", keep)
    assert int(result.tallies[ROOT].firings.sum()) == int(result.sums[ROOT, "dropped"].l0.sum())
    assert int(result.sums[ROOT, "dropped"].n.sum()) == 200
    assert int(result.sums[ROOT, "included"].n.sum()) == 300
    every_row = measured("cpu", np.ones(300, bool))
    for mine, theirs in zip(result.sums[ROOT, "included"], every_row.sums[ROOT, "dropped"], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_measured_as_a_dense_sum_says(kind: str):
    result, x = measured("cpu", np.ones(300, bool), kind=kind), RowsInMemory(300).x
    prompt = torch.from_numpy(np.random.default_rng(0).integers(0, 7, 300))
    sae = sae_of(kind, x)
    with torch.no_grad():
        dense = sae.encode_dense(x)
        error = (dense @ sae.W_dec + sae.b_dec) * sae.scale - x
    active = dense != 0
    assert 0 < int(active.sum()) < active.numel()
    tally, sums = result.tallies[ROOT], result.sums[ROOT, "included"]
    assert torch.equal(tally.firings, active.sum(0))
    per_prompt = torch.stack([active[prompt == one].any(0) for one in range(7)])
    assert torch.equal(tally.prompts, per_prompt.sum(0))
    torch.testing.assert_close(tally.activation, dense.double().sum(0), rtol=1e-5, atol=1e-5)
    assert sums.l0.tolist() == [int(active[prompt == one].sum()) for one in range(7)]
    torch.testing.assert_close(float(sums.sse.sum()), float(error.double().square().sum()), rtol=1e-5, atol=0)


@pytest.mark.parametrize("normalise", ["row_norm", "layer_norm"])
def test_rows_normalised_one_by_one_are_brought_back_to_their_units(normalise: str):
    result, x = measured("cpu", np.ones(300, bool), normalise=normalise), RowsInMemory(300).x
    with torch.no_grad():
        error = sae_of("topk", x, normalise=normalise)(x) - x
    torch.testing.assert_close(float(result.sums[ROOT, "included"].sse.sum()), float(error.square().sum()), rtol=1e-5, atol=0)


def test_all_rows_dropped_leaves_zeros():
    result = measured("cpu", np.zeros(300, bool))
    assert all(float(field.abs().sum()) == 0 for field in result.sums[ROOT, "dropped"])
    assert int(result.tallies[ROOT].firings.sum()) == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_sums_of_the_cpu_and_repeats_to_the_bit():
    first, second, cpu = measured("cuda"), measured("cuda"), measured("cpu")
    for key in cpu.sums:
        for mine, again, wanted in zip(first.sums[key], second.sums[key], cpu.sums[key], strict=True):
            assert torch.equal(mine, again)
            torch.testing.assert_close(mine.cpu(), wanted, rtol=1e-4, atol=1e-6)
    assert all(torch.equal(mine, again) for mine, again in zip(first.tallies[ROOT], second.tallies[ROOT], strict=True))


def test_auto_takes_what_there_is():
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_device("cpu").type == "cpu"
