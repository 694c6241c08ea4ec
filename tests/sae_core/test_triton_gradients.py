"""Gradients and Adam of the triton backend against float64."""

import pytest
import torch
from torch import Tensor
from triton_cases import DEVICE, draw, near, need_triton, uneven

from sae_core.kernels.codes import equally_many
from sae_core.kernels.gradient import AdamStep, ExtraRows, RowGradient

need_triton()

from sae_core.kernels.triton import products, row_gradient  # noqa: E402 - not without triton
from sae_core.kernels.triton.backend import TritonBackend  # noqa: E402 - not without triton
from sae_core.kernels.triton.topk import SelectingMatrix  # noqa: E402 - not without triton

pytestmark = [pytest.mark.usefixtures("poisoned_memory"), pytest.mark.filterwarnings("ignore:.*determinis")]


@pytest.fixture(scope="module")
def backend() -> TritonBackend:
    return TritonBackend(DEVICE)


def gradient(batch: int, d_model: int, d_sae: int, share: float, backend: TritonBackend) -> tuple[RowGradient, Tensor]:
    """A gradient with extra rows, and its truth."""
    codes = uneven(batch, d_sae, share)
    entries = backend.transpose(codes, d_sae)
    rows, extra = draw(batch, d_model, seed=6), ExtraRows(torch.tensor([2, d_sae - 1], device=DEVICE), draw(2, d_model, seed=7))
    truth = codes.dense(d_sae).double().T @ rows.double()
    truth.index_add_(0, extra.latents, extra.rows.double())
    return RowGradient(entries, codes.values[entries.order], rows, extra), truth


@pytest.mark.parametrize(("batch", "d_model", "d_sae", "share"), [(7, 5, 40, 0.2), (90, 17, 5, 2.0)], ids=["short", "long lists"])
def test_norm_of_a_gradient_in_every_form(backend: TritonBackend, batch: int, d_model: int, d_sae: int, share: float) -> None:
    entries, truth = gradient(batch, d_model, d_sae, share, backend)
    assert (entries.entries.offsets.diff().max() > row_gradient.PIECE) == (batch == 90)
    forms = {"entries": entries, "pieces": row_gradient.in_pieces(entries), "dense": products.dense_gradient(entries)}
    for form in forms.values():
        near(backend.squared_norm(form), truth.square().sum())
        near(backend.squared_norm(form, torch.tensor(False, device=DEVICE)), truth.square().sum())
        assert backend.squared_norm(form, torch.tensor(True, device=DEVICE)) == 0
    assert isinstance(forms["dense"], Tensor)
    near(forms["dense"], truth)


def test_dense_gradient_in_blocks_of_latents(backend: TritonBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    entries, truth = gradient(12, 5, 40, 0.5, backend)
    monkeypatch.setattr(products, "MEMORY", 2 * products.TERMS * 12 * 7)
    near(products.dense_gradient(entries), truth)
    near(products.float32_product(draw(3, 12), draw(40, 12, seed=1)), draw(3, 12).double() @ draw(40, 12, seed=1).double().T)


def test_the_form_of_a_gradient_follows_its_density(backend: TritonBackend) -> None:
    assert isinstance(backend.prepared(gradient(12, 5, 40, 0.5, backend)[0]), Tensor)
    codes = equally_many(torch.tensor([[3], [500]], device=DEVICE), draw(2, 1))
    sparse = RowGradient(backend.transpose(codes, 999), codes.values, draw(2, 5))
    assert isinstance(backend.prepared(sparse), RowGradient)


def adam_truth(W: Tensor, gradients: list[Tensor], step: AdamStep) -> tuple[Tensor, Tensor, Tensor]:
    """Weights and moments in float64 after a step on each gradient."""
    W, first, second = W.double(), torch.zeros_like(W).double(), torch.zeros_like(W).double()
    for count, g in enumerate(gradients, start=1):
        g = g * float(step.shrink)
        if step.project:
            g = g - W * ((g * W).sum(1, keepdim=True) / W.square().sum(1, keepdim=True))
        first, second = step.beta1 * first + (1 - step.beta1) * g, step.beta2 * second + (1 - step.beta2) * g * g
        size = (second / (1 - step.beta2**count)).sqrt() + step.eps
        W = W - float(step.lr) * first / (1 - step.beta1**count) / size
        W = torch.nn.functional.normalize(W, dim=1) if step.unit_rows else W
    return W, first, second


@pytest.mark.parametrize(("form", "decoder"), [("entries", False), ("pieces", True), ("dense", False), ("dense", True)])
def test_adam_follows_the_float64_trajectory(backend: TritonBackend, form: str, decoder: bool) -> None:
    both = [gradient(90, 17, 5, share, backend) for share in (2.0, 0.3)]
    step = AdamStep(0.01, 1, 0.5, unit_rows=decoder, project=decoder)
    W = draw(5, 17, seed=8)
    truth = adam_truth(W, [dense for _, dense in both], step)
    matrix = backend.matrix(W.clone(), selects=not decoder)
    for count, (entries, _) in enumerate(both, start=1):
        given = {"entries": entries, "pieces": row_gradient.in_pieces(entries), "dense": entries.written_out()}[form]
        backend.adam_(matrix, given, step._replace(count=count))
    near(matrix.weights, truth[0])
    near(matrix.exp_avg, truth[1])
    near(matrix.exp_avg_sq, truth[2])


def test_the_bfloat16_form_follows_the_weights(backend: TritonBackend) -> None:
    entries, _ = gradient(12, 33, 40, 0.5, backend)
    encoder = backend.matrix(draw(40, 33, seed=8), selects=True)
    backend.adam_(encoder, entries, AdamStep(0.1, 1))
    assert isinstance(encoder, SelectingMatrix)
    assert encoder.shadow is not None
    assert encoder.rounded is not None
    assert torch.equal(encoder.shadow, encoder.weights.bfloat16())
    near(encoder.rounded.norms, encoder.weights.double().norm(dim=1))
    near(encoder.rounded.slips, (encoder.weights.double() - encoder.shadow.double()).norm(dim=1), rtol=1e-4)


@pytest.mark.parametrize("count", [1, 7, 100000])
def test_numbers_on_the_device_do_the_same_as_numbers(backend: TritonBackend, count: int) -> None:
    entries, _ = gradient(12, 5, 40, 0.5, backend)
    found = []
    for on_device in (False, True):
        step = AdamStep(1e-3, count, 0.25)
        if on_device:
            lr, steps, shrink = (torch.tensor(number, device=DEVICE) for number in (1e-3, count, 0.25))
            step = AdamStep(lr, steps, shrink)
        matrix = backend.matrix(draw(40, 5, seed=8), selects=False)
        backend.adam_(matrix, entries, step)
        found.append(matrix.weights)
    assert torch.equal(*found)
