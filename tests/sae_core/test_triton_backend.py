"""The triton backend: compiled where there is a GPU, under Triton's interpreter where there is none."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from triton_cases import DEVICE, check_selection, draw, near, need_triton, state_of, true_scores, uneven

from sae_core.kernels.backend import Backend
from sae_core.kernels.codes import Codes
from sae_core.kernels.gradient import AdamStep, RowGradient
from sae_core.kernels.torch_backend import TorchBackend

need_triton()

from sae_core.kernels.triton import backend as backend_module  # noqa: E402 - not without triton
from sae_core.kernels.triton import reconstruction, transpose  # noqa: E402 - not without triton
from sae_core.kernels.triton.backend import TritonBackend  # noqa: E402 - not without triton

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.usefixtures("poisoned_memory"), pytest.mark.filterwarnings("ignore:.*determinis")]


@pytest.fixture(scope="module")
def backend() -> TritonBackend:
    return TritonBackend(DEVICE)


def check_reconstruction(backend: TritonBackend, codes: Codes, d_model: int, d_sae: int) -> None:
    W_dec, b_dec, target = draw(d_sae, d_model, seed=3), draw(d_model, seed=4), draw(codes.batch, d_model, seed=5)
    entries = backend.transpose(codes, d_sae)
    found = backend.reconstruct(codes, entries, W_dec, b_dec, target)
    error = codes.dense(d_sae).double() @ W_dec.double() + b_dec.double() - target.double()
    near(found.error, error)
    near(found.dots, (error @ W_dec.double().T)[entries.rows, entries.latents])


@pytest.mark.parametrize(("batch", "d_model", "d_sae", "share"), [(5, 7, 11, 0.5), (9, 130, 40, 1.0), (3, 33, 200, 2.0)], ids=str)
def test_reconstruction_of_uneven_rows_is_the_dense_one(
    backend: TritonBackend, batch: int, d_model: int, d_sae: int, share: float
) -> None:
    check_reconstruction(backend, uneven(batch, d_sae, share), d_model, d_sae)


def test_an_encoder_selects_as_a_trained_matrix_does_and_holds_no_moments(backend: TritonBackend) -> None:
    weights, rows, b_enc = draw(40, 33, seed=8), draw(6, 33, seed=9), draw(40, seed=10)
    encoder = backend.encoder(weights)
    assert encoder.exp_avg.numel() == encoder.exp_avg_sq.numel() == 0
    found, wanted = (backend.topk(rows, one, b_enc, 5, False, "fp32") for one in (encoder, backend.matrix(weights, selects=True)))
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, wanted, strict=True))


def test_rows_too_long_to_be_held_are_read_twice_with_the_same_result(backend: TritonBackend) -> None:
    counts = torch.tensor([0, 2, 150, 1, 0, 7], device=DEVICE)
    latents = torch.cat([torch.arange(int(count), device=DEVICE) for count in counts])
    codes = Codes(torch.cat([counts.new_zeros(1), counts.cumsum(0)]), latents, draw(160))
    assert reconstruction.held(160, 6) < 150
    check_reconstruction(backend, codes, 300, 151)


@pytest.mark.parametrize("d_sae", [40, 1 << 15, (1 << 15) + 1])
def test_entries_by_latent_are_those_of_the_stable_sort(
    backend: TritonBackend, monkeypatch: pytest.MonkeyPatch, d_sae: int
) -> None:
    monkeypatch.setattr(transpose, "BLOCK", 1 << (d_sae // 4).bit_length())
    codes = uneven(12, 40, 0.5)
    codes = codes._replace(latents=codes.latents + d_sae - 40)
    for found, truth in zip(backend.transpose(codes, d_sae), TorchBackend(DEVICE).transpose(codes, d_sae), strict=True):
        assert torch.equal(found, truth)


def test_entries_of_codes_without_any(backend: TritonBackend) -> None:
    none = Codes(torch.zeros(4, dtype=torch.int64, device=DEVICE), torch.zeros(0, dtype=torch.int64, device=DEVICE), draw(0))
    assert backend.transpose(none, 5).offsets.tolist() == [0] * 6
    entries = backend.transpose(none, 5)
    assert backend.squared_norm(backend.prepared(RowGradient(entries, draw(0), draw(3, 4)))) == 0
    near(backend.reconstruct(none, entries, draw(5, 4), draw(4), draw(3, 4)).error, draw(4).double() - draw(3, 4).double())


def whole_update(backend: Backend, state: dict[str, Tensor], step: AdamStep, k: int) -> list[Tensor]:
    """Every operation once, from fresh matrices; all that comes out."""
    encoder, decoder = (backend.matrix(state[name].clone(), selects=name == "W_enc") for name in ("W_enc", "W_dec"))
    d_sae = len(encoder.weights)
    codes = backend.topk(state["x"], encoder, state["b_enc"], k, False, "fp32")
    entries = backend.transpose(codes, d_sae)
    error, dots = backend.reconstruct(codes, entries, decoder.weights, state["b_dec"], state["x"])
    gradients = [RowGradient(entries, dots, state["x"]), RowGradient(entries, codes.values[entries.order], error)]
    prepared = [backend.prepared(gradient) for gradient in gradients]
    norm = sum((backend.squared_norm(gradient) for gradient in prepared), start=torch.zeros((), device=DEVICE)).sqrt()
    step = step._replace(shrink=(1 / norm).clamp(max=1))
    backend.adam_(encoder, prepared[0], step)
    backend.adam_(decoder, prepared[1], step._replace(unit_rows=True, project=True))
    moments = [tensor for matrix in (encoder, decoder) for tensor in (matrix.weights, matrix.exp_avg, matrix.exp_avg_sq)]
    return [codes.latents, codes.values, error, dots, norm, *moments]


@pytest.mark.parametrize("dense_from", [0.0, 1.0], ids=["dense", "gathered"])
def test_an_update_is_repeatable_to_the_bit_and_agrees_with_the_torch_backend(
    backend: TritonBackend, monkeypatch: pytest.MonkeyPatch, dense_from: float
) -> None:
    monkeypatch.setattr(backend_module, "DENSE_FROM", dense_from)
    state, step = state_of(5, 20, 24), AdamStep(0.01, 1)
    first, second = (whole_update(backend, state, step, 3) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    expected = whole_update(TorchBackend(DEVICE), state, step, 3)
    for found, truth in zip(first[2:], expected[2:], strict=True):
        near(found, truth.double(), rtol=1e-4)


def test_a_device_without_triton_is_refused(backend: TritonBackend) -> None:
    with pytest.raises(ValueError, match="must run on a CUDA device; got meta"):
        TritonBackend(torch.device("meta"))
    with pytest.raises(ValueError, match="d_model must be at most 16384"):
        backend.matrix(torch.zeros(1, 16385), selects=False)


def run_apart(cache: Path, *arguments: str) -> str:
    """Output of another Python in which kernels are not interpreted."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": str(ROOT), "TRITON_CACHE_DIR": str(cache)}
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_core_imports_without_triton(tmp_path: Path) -> None:
    code = "import sys; sys.modules['triton'] = None; import sae_core.kernels.backend, sae_core.kernels.torch_backend"
    assert run_apart(tmp_path, "-c", code) == ""


def test_every_kernel_compiles_for_sm_90_without_spills(tmp_path: Path) -> None:
    found = json.loads(run_apart(tmp_path, str(Path(__file__).with_name("compile_for_sm_90.py"))))
    assert len(found["defined"]) > 10
    assert {kernel["name"] for kernel in found["kernels"]} == set(found["defined"])
    for kernel in found["kernels"]:
        assert kernel["bytes"] > 1000, kernel
        assert kernel["stack"] == kernel["local"] == 0, kernel


@pytest.mark.skipif(DEVICE.type == "cpu", reason="needs a CUDA device")
class TestOnGpu:
    """What the interpreter cannot show."""

    @pytest.mark.parametrize("k", [64, 256])
    def test_the_set_is_that_of_float64_at_full_size(self, backend: TritonBackend, k: int) -> None:
        state = state_of(512, 896, 7168)
        codes = backend.topk(state["x"], backend.matrix(state["W_enc"], selects=True), state["b_enc"], k, False, "fp32")
        check_selection(codes, *true_scores(state["x"], state["W_enc"], state["b_enc"], False), k)

    def test_a_captured_update_replays_with_new_numbers(self, backend: TritonBackend) -> None:
        state = state_of(512, 896, 7168)
        lr, count = torch.tensor(1e-3, device=DEVICE), torch.tensor(1, device=DEVICE)
        step = AdamStep(lr, count)
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            whole_update(backend, state, step, 64)
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = whole_update(backend, state, step, 64)
        lr.fill_(1e-2)
        count.fill_(5)
        state["x"].copy_(draw(512, 896, seed=9))
        graph.replay()
        for replayed, eager in zip(captured, whole_update(backend, state, step, 64), strict=True):
            assert torch.equal(replayed, eager)
