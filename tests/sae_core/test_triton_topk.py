"""Selection by the triton backend: exact whatever bfloat16 makes of the scores."""

import pytest
import torch
from torch import Tensor
from triton_cases import DEVICE, check_selection, draw, need_triton, true_scores

from sae_core.kernels.backend import Precision

need_triton()

from sae_core.kernels.triton import candidates, keeping, products, topk  # noqa: E402 - not without triton
from sae_core.kernels.triton.backend import TritonBackend  # noqa: E402 - not without triton
from sae_core.kernels.triton.rounding import like, round_into  # noqa: E402 - not without triton
from sae_core.kernels.triton.topk import SelectingMatrix  # noqa: E402 - not without triton

pytestmark = [pytest.mark.usefixtures("poisoned_memory"), pytest.mark.filterwarnings("ignore:.*determinis")]


@pytest.fixture(scope="module")
def backend() -> TritonBackend:
    return TritonBackend(DEVICE)


def selecting(backend: TritonBackend, weights: Tensor) -> SelectingMatrix:
    found = backend.matrix(weights, selects=True)
    assert isinstance(found, SelectingMatrix)
    return found


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_rounding_is_to_nearest_and_of_two_to_the_even_one() -> None:
    x = draw(3, 40)
    x[0, :6] = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, float("inf"), -float("inf"), 3.4e38])
    x[1, 0] = float("nan")
    found = like(x)
    round_into(found, x)
    torch.testing.assert_close(found.copies, x.bfloat16(), rtol=0, atol=0, equal_nan=True)


SELECTIONS = [(5, 7, 11, 3), (1, 3, 4, 1), (3, 33, 40, 2), (2, 12, 40, 40), (2, 16, 90, 70)]
"""batch, d_model, d_sae, k: odd sizes, one row, k = d_sae, k larger than what is left out."""


@pytest.mark.parametrize("dense", [False, True], ids=["rescored", "dense"])
@pytest.mark.parametrize("shape", SELECTIONS, ids=str)
def test_float32_selection_is_exact(
    backend: TritonBackend, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int, int], dense: bool
) -> None:
    batch, d_model, d_sae, k = shape
    monkeypatch.setattr(candidates, "GROUPS", 16)
    monkeypatch.setattr(topk, "MEMORY", 8 * d_sae)
    absolute = bool(batch % 2)
    x, W, b = draw(batch, d_model), draw(d_sae, d_model, seed=1), draw(d_sae, seed=2)
    codes = topk.topk(x, selecting(backend, W), b, k, absolute, "fp32", dense)
    check_selection(codes, *true_scores(x, W, b, absolute), k)


@pytest.mark.parametrize("absolute", [False, True])
def test_bfloat16_selection_is_that_of_rounded_factors(backend: TritonBackend, absolute: bool) -> None:
    x, W, b = draw(4, 33), draw(70, 33, seed=1), draw(70, seed=2)
    codes = backend.topk(x, backend.matrix(W, selects=True), b, 9, absolute, "bf16")
    check_selection(codes, *true_scores(x.bfloat16(), W.bfloat16(), b, absolute), 9)


@pytest.mark.parametrize("most", [16, 64], ids=["too many", "as candidates"])
@pytest.mark.parametrize("inexact", ["rows", "tiny rows", "latents"])
def test_what_bfloat16_cannot_tell_apart_is_decided_by_float32(
    backend: TritonBackend, monkeypatch: pytest.MonkeyPatch, inexact: str, most: int
) -> None:
    monkeypatch.setattr(candidates, "MOST", most)
    # z is the sum of two parts; for 30 latents it is 1 and a hair, the best of them last, and half of it for ten others
    parts = torch.rand(40, generator=torch.Generator().manual_seed(0)).to(DEVICE) / 100
    parts = torch.stack([1 + parts, 1e-5 * torch.arange(40, device=DEVICE) - parts])
    parts[:, 30:] /= 2
    pairs = torch.eye(40, device=DEVICE).repeat(1, 2)
    x, W = (torch.ones(1, 80, device=DEVICE), parts.reshape(-1) * pairs) if inexact == "latents" else (parts.view(1, 80), pairs)
    x = x * 1e-21 if inexact == "tiny rows" else x
    encoder, b = selecting(backend, W), torch.zeros(40, device=DEVICE)
    assert topk.topk(x, encoder, b, 6, False, "fp32", dense=False).latents.tolist() == list(range(24, 30))
    assert topk.topk(x, encoder, b, 6, False, "bf16", dense=False).latents.tolist() != list(range(24, 30))


def test_few_latents_are_candidates(backend: TritonBackend) -> None:
    x, W, b = draw(3, 64), torch.nn.functional.normalize(draw(150, 64, seed=1), dim=1), torch.zeros(150, device=DEVICE)
    encoder, rows = selecting(backend, W), like(x)
    round_into(rows, x)
    assert encoder.rounded is not None
    scores = products.bfloat16_product(rows.copies, encoder.rounded.copies.T)
    counts = candidates.candidates(scores, b, (rows, encoder.rounded), 16, False).counts
    assert (counts >= 16).all()
    assert (counts <= 32).all()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_rows_whose_candidates_do_not_fit_are_searched_whole(
    backend: TritonBackend, monkeypatch: pytest.MonkeyPatch, precision: Precision
) -> None:
    monkeypatch.setattr(keeping, "BLOCK", 128)
    d_sae, k = 160, 3
    x, W, b = draw(3, 8).bfloat16().float(), draw(d_sae, 8, seed=1).bfloat16().float(), torch.zeros(d_sae, device=DEVICE)
    x[1] = 0
    W[10:150] = W[7]
    x[2], W[155] = W[7], 2 * W[7]
    codes = topk.topk(x, selecting(backend, W), b, k, False, precision, dense=False)
    check_selection(codes, *true_scores(x, W, b, False), k)
    assert codes.latents.view(-1, k)[1].tolist() == [0, 1, 2], "of equal ones the first"


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1.0, 1e15])
def test_selection_is_exact_at_any_scale(backend: TritonBackend, scale: float) -> None:
    x, W, b = draw(3, 20) * scale, draw(60, 20, seed=1), draw(60, seed=2) * scale - 9 * scale
    codes = topk.topk(x, selecting(backend, W), b, 2, False, "fp32", dense=False)
    check_selection(codes, *true_scores(x, W, b, False), 2)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_nan_counts_as_largest_and_spoils_no_other_row(backend: TritonBackend, precision: Precision) -> None:
    x, W, b = draw(3, 9), draw(60, 9, seed=1), draw(60, seed=2)
    encoder = selecting(backend, W)
    x[1, 4] = -torch.tensor(float("nan"))
    codes = topk.topk(x, encoder, b, 2, False, precision, dense=False)
    assert codes.values.view(3, 2)[1].isnan().all()
    assert codes.values.view(3, 2)[[0, 2]].isfinite().all()
    W[37] = -torch.tensor(float("nan"))
    backend.refresh(encoder)
    latents = topk.topk(x, encoder, b, 2, False, precision, dense=False).latents.view(3, 2)
    assert (latents == 37).any(1)[[0, 2]].all()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_score_that_bfloat16_makes_nan_displaces_no_other(backend: TritonBackend) -> None:
    x, W, b = draw(3, 9), draw(60, 9, seed=1), torch.zeros(60, device=DEVICE)
    # rounds to infinity, and infinity times 0 is NaN
    W[5, 0], x[:, 0] = 3.4e38, 0
    codes = topk.topk(x, selecting(backend, W), b, 2, False, "fp32", dense=False)
    check_selection(codes, *true_scores(x, W, b, False), 2)
