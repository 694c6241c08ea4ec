"""One pass over a store: counts of latents, and repeatability on every device."""

import numpy as np
import pytest
import torch

from sae_core.kernels.torch_backend import TorchBackend
from sae_core.metrics.firing import LatentTotals, latent_totals
from sae_core.models.build import initial
from sae_core.models.reading import Reader
from sae_core.models.sae import SAE
from workflow.drift.measuring import choose_device
from workflow.drift.streaming import Fixed, StoreResult, fixed_of, measure_store
from workflow.drift.views import THRESHOLD, View
from workflow.formats.drift import Pair
from workflow.formats.masks import StageRows
from workflow.formats.saes import config_of

ROOT = Pair("real", "base", "base")
THRESHOLD_AT = 0.6
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
    views = [View(ROOT), View(ROOT, THRESHOLD)] if kind.startswith("topk") else [View(ROOT)]
    return measure_store(
        store=store, rows=rows, n_prompts=7, fixed=Fixed(torch.zeros(8, dtype=torch.float64), torch.tensor(THRESHOLD_AT)),
        saes={ROOT: Reader(sae, TorchBackend(torch.device(device)))}, counted=views, codes_of={}, batch_rows=batch_rows,
        device=torch.device(device),
    )  # fmt: skip


def counted(result: StoreResult, rule: str = "own_rule") -> LatentTotals:
    return latent_totals(result.firings[View(ROOT, rule)])


def test_counts_are_those_of_kept_rows_and_the_two_lines_differ_by_the_rest():
    keep = np.arange(300) >= 100
    result = measured("cpu", keep)
    assert int(counted(result).firings.sum()) == int(result.sums[ROOT, "dropped"].l0.sum())
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
    totals, sums = counted(result), result.sums[ROOT, "included"]
    assert torch.equal(totals.firings, active.sum(0))
    per_prompt = torch.stack([active[prompt == one].any(0) for one in range(7)])
    assert torch.equal(totals.prompts, per_prompt.sum(0))
    torch.testing.assert_close(totals.activation, dense.double().sum(0), rtol=1e-5, atol=1e-5)
    assert sums.l0.tolist() == [int(active[prompt == one].sum()) for one in range(7)]
    torch.testing.assert_close(float(sums.sse.sum()), float(error.double().square().sum()), rtol=1e-5, atol=0)


@pytest.mark.parametrize("normalise", ["row_norm", "layer_norm"])
def test_rows_normalised_one_by_one_are_brought_back_to_their_units(normalise: str):
    result, x = measured("cpu", np.ones(300, bool), normalise=normalise), RowsInMemory(300).x
    with torch.no_grad():
        error = sae_of("topk", x, normalise=normalise)(x) - x
    torch.testing.assert_close(float(result.sums[ROOT, "included"].sse.sum()), float(error.square().sum()), rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", ["topk", "topk_signed", "topk_absolute"])
def test_a_threshold_lets_every_latent_fire_by_itself(kind: str):
    result, sae = measured("cpu", np.ones(300, bool), kind=kind), sae_of(kind, RowsInMemory(300).x)
    with torch.no_grad():
        z = sae.scores(sae.centred(sae.normalised(RowsInMemory(300).x).rows))
    active = (z.abs() if kind == "topk_absolute" else z) > THRESHOLD_AT
    assert torch.equal(counted(result, THRESHOLD).firings, active.sum(0))
    torch.testing.assert_close(counted(result, THRESHOLD).activation, (z * active).double().sum(0), rtol=1e-5, atol=1e-5)


def test_centre_and_threshold_come_from_the_first_kept_rows():
    store, keep = RowsInMemory(300), np.arange(300) % 2 == 0
    fixed = fixed_of(store, StageRows(np.zeros(300, np.int64), keep), sae := sae_of("topk", store.x))
    x = store.x[torch.from_numpy(keep)]
    torch.testing.assert_close(fixed.centre, x.double().mean(0))
    with torch.no_grad():
        active = sae.scores(sae.centred(sae.normalised(x).rows)) > fixed.threshold
        assert int(active.sum()) == int(sae.encode(x).active_per_row().sum())
    assert fixed_of(store, StageRows(np.zeros(300, np.int64), keep), sae_of("relu", store.x)).threshold is None


def test_all_rows_dropped_leaves_zeros():
    result = measured("cpu", np.zeros(300, bool))
    assert all(float(field.abs().sum()) == 0 for field in result.sums[ROOT, "dropped"])
    assert int(counted(result).firings.sum()) == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_sums_of_the_cpu_and_repeats_to_the_bit():
    first, second, cpu = measured("cuda"), measured("cuda"), measured("cpu")
    for key in cpu.sums:
        for mine, again, wanted in zip(first.sums[key], second.sums[key], cpu.sums[key], strict=True):
            assert torch.equal(mine, again)
            torch.testing.assert_close(mine.cpu(), wanted, rtol=1e-4, atol=1e-6)
    assert all(torch.equal(mine, again) for mine, again in zip(counted(first), counted(second), strict=True))
    assert torch.equal(counted(first).firings, counted(cpu).firings)


def test_auto_takes_what_there_is():
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_device("cpu").type == "cpu"
