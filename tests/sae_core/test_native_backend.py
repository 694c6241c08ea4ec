"""The compiled backend at every instruction set that this CPU has, against float64 and the torch backend."""

from collections.abc import Iterator
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from sae_core.kernels import selection
from sae_core.kernels.backend import Gradient
from sae_core.kernels.codes import Codes, equally_many
from sae_core.kernels.gradient import AdamStep, ExtraRows, Matrix, RowGradient
from sae_core.kernels.native import backend as module
from sae_core.kernels.native.backend import NativeBackend
from sae_core.kernels.native.candidates import NativeMatrix
from sae_core.kernels.native.library import Level, unavailable
from sae_core.kernels.torch_backend import TorchBackend

if unavailable("portable"):
    pytest.skip(f"no compiled library: {unavailable('portable')}", allow_module_level=True)

TORCH = TorchBackend(torch.device("cpu"))
SHAPES = [(5, 7, 11, 3), (1, 3, 4, 1), (1, 8, 64, 2), (33, 19, 130, 9), (16, 12, 96, 96), (9, 5, 800, 17), (40, 67, 517, 30)]
"""batch, d_model, d_sae, k: odd sizes, one row, k = d_sae, many latents that no row touches."""


@pytest.fixture(params=get_args(Level))
def level(request: pytest.FixtureRequest) -> Level:
    if reason := unavailable(request.param):
        pytest.skip(reason)
    return request.param


@pytest.fixture
def native(level: Level) -> NativeBackend:
    return NativeBackend(level, int8=True)


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    """Fresh tensors hold NaN and huge numbers until something is written into them."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    assert torch.zeros(1).new_empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def drawn_codes(batch: int, d_sae: int, k: int) -> Codes:
    """k entries in a row, but for some rows that have fewer or none."""
    draw = torch.Generator().manual_seed(batch)
    latents = [torch.randperm(d_sae, generator=draw)[: (k, k, 0, k // 2)[row % 4]] for row in range(batch)]
    counts = torch.tensor([0, *(len(row) for row in latents)])
    return Codes(counts.cumsum(0), torch.cat(latents), torch.randn(int(counts.sum()), generator=draw))


def drawn_gradient(batch: int, d_model: int, d_sae: int, k: int) -> RowGradient:
    entries = TORCH.transpose(drawn_codes(batch, d_sae, k), d_sae)
    return RowGradient(entries, drawn(len(entries.order), seed=1), drawn(batch, d_model, seed=2))


def selected(backend: NativeBackend, z: Tensor, k: int, absolute: bool = False) -> Codes:
    """What `topk` selects where the pre-activations are given: each row meets a unit vector."""
    encoder = backend.matrix(z.T.contiguous(), selects=True)
    return backend.topk(torch.eye(len(z)), encoder, torch.zeros(z.shape[1]), k, absolute, "fp32")


def near(found: Tensor, truth: Tensor) -> None:
    scale = max(1.0, float(truth.abs().max())) if truth.numel() else 1.0
    torch.testing.assert_close(found.double(), truth.double(), rtol=1e-5, atol=1e-5 * scale)


def assert_largest(codes: Codes, z: Tensor, k: int, absolute: bool, slack: float) -> None:
    """The codes hold k latents of each row, at their values, and none left out is larger by more than float32 rounds."""
    batch, d_sae = z.shape
    assert torch.equal(codes.offsets, torch.arange(0, batch * k + 1, k))
    latents, values = codes.latents.view(batch, k), codes.values.view(batch, k)
    assert (latents.diff(dim=1) > 0).all()
    assert ((latents >= 0) & (latents < d_sae)).all()
    assert ((values - z.gather(1, latents)).abs() <= slack).all()
    ranked = z.abs() if absolute else z
    left_out = ranked.scatter(1, latents, -torch.inf).amax(1)
    assert (left_out <= ranked.gather(1, latents).amin(1) + 2 * slack).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("absolute", [False, True], ids=["signed", "absolute"])
@pytest.mark.parametrize("int8", [False, True], ids=["float32", "candidates"])
def test_topk_finds_the_largest_of_float64(level: Level, shape: tuple[int, int, int, int], absolute: bool, int8: bool) -> None:
    batch, d_model, d_sae, k = shape
    backend = NativeBackend(level, int8=int8)
    centred, weights, b_enc = drawn(batch, d_model), drawn(d_sae, d_model, seed=1), drawn(d_sae, seed=2)
    codes = backend.topk(centred, backend.matrix(weights, selects=True), b_enc, k, absolute, "fp32")
    z = centred.double() @ weights.double().T + b_enc
    assert_largest(codes, z, k, absolute, slack=5e-5)


def test_bf16_gives_values_of_the_rounded_product(level: Level) -> None:
    rows, weights, b_enc = drawn(40, 67), drawn(517, 67, seed=1), drawn(517, seed=2)
    z = rows.bfloat16().double() @ weights.bfloat16().double().T
    for int8 in (False, True):
        backend = NativeBackend(level, int8=int8)
        codes = backend.topk(rows, backend.matrix(weights, selects=True), b_enc, 30, False, "bf16")
        assert_largest(codes, z + b_enc, 30, False, slack=float(z.abs().max()) * 2**-8)


def hard_rows(d_sae: int, k: int) -> dict[str, Tensor]:
    row = torch.arange(d_sae, dtype=torch.float32)
    return {
        "winners in one group": torch.where(row % 64 == 3, row + 1000, -row),
        "winners side by side": torch.where(row < k, 5 + row, -row),
        "all negative": -1 - row,
        "all equal": torch.ones(d_sae),
        "all zero": torch.zeros(d_sae),
        "two values": (row % 3 == 0).float(),
        "ties at the border": torch.where(row < k - 1, 9.0, 1.0),
        "infinite": torch.where(row == 7, torch.inf, -row),
        "minus infinite": torch.where(row > 10, -torch.inf, row),
        "huge": (row - 300) * 1e36,
        "subnormal": row * 1e-42,
        "nearly equal": 1 + row * 2**-20,
    }


@pytest.mark.parametrize("name", hard_rows(517, 16))
@pytest.mark.parametrize("int8", [False, True], ids=["float32", "candidates"])
@pytest.mark.parametrize("d_sae", [16, 17, 517])
def test_topk_survives_hard_rows(level: Level, name: str, int8: bool, d_sae: int) -> None:
    z = hard_rows(d_sae, 16)[name].unsqueeze(0)
    for k in (1, 16):
        codes = selected(NativeBackend(level, int8=int8), z, k)
        assert len(codes.latents.unique()) == k
        assert torch.equal(z[0, codes.latents], codes.values)
        assert torch.equal(codes.values.sort().values, z.topk(k).values[0].sort().values)


@pytest.mark.parametrize("int8", [False, True], ids=["float32", "candidates"])
def test_topk_ranks_sizes_where_asked(level: Level, int8: bool) -> None:
    z = drawn(13, 517)
    codes = selected(NativeBackend(level, int8=int8), z, 16, absolute=True)
    assert torch.equal(codes.latents.view(13, 16), z.abs().topk(16).indices.sort(1).values)
    assert (codes.values < 0).any()


@pytest.mark.parametrize("k", [1, 4, 31, 64, 128, 200, 517])
@pytest.mark.parametrize("int8", [False, True], ids=["float32", "candidates"])
def test_topk_takes_of_equal_values_the_first(level: Level, k: int, int8: bool) -> None:
    z = (drawn(9, 517) * 2).round()
    codes = selected(NativeBackend(level, int8=int8), z, k)
    first = z.sort(dim=1, descending=True, stable=True).indices[:, :k].sort(1).values
    assert torch.equal(codes.latents.view(9, k), first)


@pytest.mark.parametrize("int8", [False, True], ids=["float32", "candidates"])
@pytest.mark.parametrize("poisoned", [1, 20, 517])
def test_topk_shows_nan_instead_of_hiding_it(level: Level, int8: bool, poisoned: int) -> None:
    z = drawn(4, 517)
    places = torch.randperm(517, generator=torch.Generator().manual_seed(0))[:poisoned]
    z[2, places] = torch.nan
    z[2, places[::2]] = -torch.nan
    backend = NativeBackend(level, int8=int8)
    # a diagonal product would spread NaN over other rows: one row at a time
    for row in range(4):
        values = selected(backend, z[row : row + 1], 16).values
        assert int(values.isnan().sum()) == (min(poisoned, 16) if row == 2 else 0)


def test_rows_of_nan_spoil_no_other_row(native: NativeBackend) -> None:
    rows, weights = drawn(16, 33), drawn(517, 33, seed=1)
    rows[3, 5], rows[7, 0] = torch.nan, torch.inf
    encoder = native.matrix(weights, selects=True)
    codes = native.topk(rows, encoder, torch.zeros(517), 16, False, "fp32")
    values = codes.values.view(16, 16)
    assert values[3].isnan().all()
    others = [row for row in range(16) if row not in (3, 7)]
    truth = native.topk(rows[others], encoder, torch.zeros(517), 16, False, "fp32")
    assert torch.equal(codes.latents.view(16, 16)[others], truth.latents.view(14, 16))
    assert torch.equal(values[others], truth.values.view(14, 16))


def test_large_batches_are_worked_on_in_parts(native: NativeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, encoder = drawn(600, 12), native.matrix(drawn(130, 12, seed=1), selects=True)
    whole = native.topk(rows, encoder, torch.zeros(130), 9, False, "fp32")
    monkeypatch.setattr(module, "PRODUCT_BYTES", 0)
    parts = native.topk(rows, encoder, torch.zeros(130), 9, False, "fp32")
    assert torch.equal(whole.latents, parts.latents)
    near(parts.values, whole.values)


def test_the_copy_in_bfloat16_is_the_nearest(native: NativeBackend) -> None:
    weights = drawn(130, 67) * torch.logspace(-18, 15, 130).unsqueeze(1)
    weights[3, :20], weights[4] = 1e-39, 0
    weights[5, :2] = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8])  # in the middle: to the even neighbour, downwards and upwards
    expected = torch.where(weights.abs() < 2**-126, 0, weights).bfloat16()
    assert torch.equal(in_bfloat16(native, weights), expected)


def in_bfloat16(native: NativeBackend, weights: Tensor) -> Tensor:
    """The copy that `topk` works with."""
    encoder = native.matrix(weights, selects=True)
    native.topk(torch.zeros(1, weights.shape[1]), encoder, torch.zeros(len(weights)), 1, False, "bf16")
    assert encoder.shadow is not None
    return encoder.shadow


def test_the_copy_in_bfloat16_keeps_nan_and_infinity(native: NativeBackend) -> None:
    weights = torch.tensor([[torch.nan, -torch.nan, torch.inf, -torch.inf, 3.4e38, -0.0]])
    copy = in_bfloat16(native, weights)
    assert copy[0, :2].isnan().all()
    assert copy[0, 2:].tolist() == [torch.inf, -torch.inf, torch.inf, 0]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_entries_by_latent_are_those_of_torch(native: NativeBackend, shape: tuple[int, int, int, int]) -> None:
    batch, _, d_sae, k = shape
    codes = drawn_codes(batch, d_sae, k)
    for found, expected in zip(native.transpose(codes, d_sae), TORCH.transpose(codes, d_sae), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_reconstruction_and_dots_are_the_dense_products(native: NativeBackend, shape: tuple[int, int, int, int]) -> None:
    batch, d_model, d_sae, k = shape
    codes, weights = drawn_codes(batch, d_sae, k), drawn(d_sae, d_model, seed=1)
    b_dec, target, entries = drawn(d_model, seed=2), drawn(batch, d_model, seed=3), native.transpose(codes, d_sae)
    found = native.reconstruct(codes, entries, weights, b_dec, target)
    error = codes.dense(d_sae).double() @ weights.double() + b_dec - target
    near(found.error, error)
    near(found.dots, (error @ weights.double().T)[entries.rows, entries.latents])


def test_no_entries_at_all(native: NativeBackend) -> None:
    codes = Codes(torch.zeros(4, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    entries = native.transpose(codes, 7)
    assert entries.offsets.tolist() == [0] * 8
    found = native.reconstruct(codes, entries, drawn(7, 5), torch.ones(5), torch.zeros(3, 5))
    assert torch.equal(found.error, torch.ones(3, 5))
    assert float(native.squared_norm(RowGradient(entries, torch.zeros(0), drawn(3, 5)))) == 0


def gradients(batch: int, d_model: int, d_sae: int, k: int) -> dict[str, Gradient]:
    sums = drawn_gradient(batch, d_model, d_sae, k)
    latents = torch.randperm(d_sae, generator=torch.Generator().manual_seed(3))[: d_sae // 3]
    extra = ExtraRows(latents, drawn(len(latents), d_model, seed=4))
    return {"sums": sums, "sums and extra rows": sums._replace(extra=extra), "whole": drawn(d_sae, d_model, seed=5)}


def written_out(gradient: Gradient) -> Tensor:
    return gradient.clone() if isinstance(gradient, Tensor) else gradient.written_out()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_squared_norms_are_those_of_gradients_written_out(native: NativeBackend, shape: tuple[int, int, int, int]) -> None:
    for gradient in gradients(*shape).values():
        near(native.squared_norm(native.prepared(gradient)), written_out(gradient).double().square().sum())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("selects", [False, True], ids=["decoder", "encoder"])
@pytest.mark.parametrize(
    "step",
    [
        AdamStep(1e-2, 1),
        AdamStep(1e-2, 7, shrink=0.3, unit_rows=True, project=True),
        AdamStep(1e-2, 2, shrink=torch.tensor(0.5), beta1=0.0, beta2=0.99, eps=1e-4),
        AdamStep(1e-2, 3, unit_rows=True),
    ],
    ids=["plain", "all", "other numbers", "unit"],
)
def test_a_step_of_adam_is_that_of_torch(
    native: NativeBackend, shape: tuple[int, int, int, int], selects: bool, step: AdamStep
) -> None:
    for gradient in gradients(*shape).values():
        weights = drawn(shape[2], shape[1], seed=9)
        mine, theirs = native.matrix(weights.clone(), selects), TORCH.matrix(weights.clone(), selects)
        for matrix in (mine, theirs):
            matrix.exp_avg.copy_(drawn(*weights.shape, seed=10) * 0.1)
            matrix.exp_avg_sq.copy_(drawn(*weights.shape, seed=11).square() * 0.1)
        if selects:
            followed(native, mine)
        native.adam_(mine, native.prepared(gradient), step)
        TORCH.adam_(theirs, written_out(gradient), step)
        near(mine.weights, theirs.weights)
        near(mine.exp_avg, theirs.exp_avg)
        near(mine.exp_avg_sq, theirs.exp_avg_sq)
        if selects:
            assert_copies_follow(native, mine)


def followed(native: NativeBackend, matrix: Matrix) -> None:
    """Have copies made, which follow the weights from then on."""
    rows, b_enc = torch.zeros(1, matrix.weights.shape[1]), torch.zeros(len(matrix.weights))
    native.topk(rows, matrix, b_enc, 1, False, "bf16")
    assert isinstance(matrix, NativeMatrix)
    assert native._search is not None
    matrix.copy = native._search.copied(matrix.weights)


def assert_copies_follow(native: NativeBackend, matrix: Matrix) -> None:
    """The copies and their bounds are those of the weights as they are now."""
    assert isinstance(matrix, NativeMatrix)
    assert matrix.shadow is not None
    assert matrix.copy is not None
    kept = [tensor.clone() for tensor in (matrix.shadow, *matrix.copy)]
    native.refresh(matrix)
    for before, now in zip(kept, (matrix.shadow, *matrix.copy), strict=True):
        assert torch.equal(before, now)


def test_a_hundred_steps_follow_torchs_adam(native: NativeBackend) -> None:
    start = drawn(130, 67, seed=9)
    parameter = torch.nn.Parameter(start.double())
    optimiser = torch.optim.Adam([parameter], lr=1e-2)
    matrix = native.matrix(start.clone(), selects=True)
    followed(native, matrix)
    for count in range(1, 101):
        # by and by fewer latents get a gradient, all of them move
        gradient = drawn_gradient(8, 67, 130, max(1, 30 - count // 3))._replace(rows=drawn(8, 67, seed=count))
        parameter.grad = gradient.written_out().double()
        optimiser.step()
        native.adam_(matrix, gradient, AdamStep(1e-2, count))
    torch.testing.assert_close(matrix.weights.double(), parameter.detach(), rtol=0, atol=1e-4)
    assert_copies_follow(native, matrix)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (16, 64), (13, 517)], ids=str)
def test_selections_of_varying_size_are_those_of_torch(native: NativeBackend, shape: tuple[int, int]) -> None:
    for z in (drawn(*shape), (drawn(*shape) * 2).round(), torch.ones(shape), -drawn(*shape).abs()):
        for threshold in (drawn(shape[1], seed=1), torch.tensor(0.5), torch.tensor(1.0), torch.tensor(-9.0)):
            equal_codes(native.above(z, threshold), selection.above(z, threshold))
        for total in {1, z.numel() // 20 + 1, z.numel() // 3 + 1, z.numel()}:
            equal_codes(native.batch_topk(z, total), selection.batch_topk(z, total))


def equal_codes(found: Codes, expected: Codes) -> None:
    assert torch.equal(found.offsets, expected.offsets)
    assert torch.equal(found.latents, expected.latents)
    assert torch.equal(found.values.nan_to_num(7e7), expected.values.nan_to_num(7e7))


@pytest.mark.parametrize("poisoned", [1, 20, 64, 512])
def test_selections_of_varying_size_keep_nan(native: NativeBackend, poisoned: int) -> None:
    z = drawn(8, 64)
    z.view(-1)[torch.randperm(512, generator=torch.Generator().manual_seed(1))[:poisoned]] = torch.nan
    z[0, 0], z[1, 1] = torch.inf, -torch.inf
    equal_codes(native.batch_topk(z, 40), selection.batch_topk(z, 40))
    equal_codes(native.above(z, torch.tensor(0.5)), selection.above(z, torch.tensor(0.5)))


def test_any_number_of_threads_gives_the_same_bits(level: Level) -> None:
    batch, d_model, d_sae, k = 40, 67, 517, 30
    rows, weights, z = drawn(batch, d_model), functional.normalize(drawn(d_sae, d_model, seed=1)), drawn(batch, d_sae, seed=2)

    def everything() -> list[Tensor]:
        backend = NativeBackend(level, int8=True)
        encoder, decoder = backend.matrix(weights.clone(), selects=True), backend.matrix(weights.clone(), selects=False)
        codes = backend.topk(rows, encoder, torch.zeros(d_sae), k, False, "fp32")
        entries = backend.transpose(codes, d_sae)
        found = backend.reconstruct(codes, entries, weights, torch.zeros(d_model), rows)
        gradient = RowGradient(entries, codes.values[entries.order], found.error)
        norm = backend.squared_norm(gradient)
        for matrix in (encoder, decoder):
            backend.adam_(matrix, gradient, AdamStep(1e-3, 1, unit_rows=True))
        assert isinstance(encoder, NativeMatrix)
        assert encoder.copy is not None
        parts = [*codes, *entries, *found, norm, decoder.weights, *encoder.copy]
        return [*parts, *backend.above(z, torch.tensor(1.0)), *backend.batch_topk(z, 300)]

    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 64):
            torch.set_num_threads(threads)
            results.append(everything())
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for first, second in zip(results[0], other, strict=True):
            assert torch.equal(first, second)


def test_equal_codes_by_row_need_not_come_from_topk(native: NativeBackend) -> None:
    """Latents in any order within a row, as other backends give them."""
    codes = equally_many(torch.tensor([[5, 1, 3], [2, 6, 0]]), torch.tensor([[1.0, 2, 3], [4, 5, 6]]))
    weights, target = drawn(7, 4), drawn(2, 4, seed=1)
    entries = native.transpose(codes, 7)
    found, expected = (backend.reconstruct(codes, entries, weights, torch.zeros(4), target) for backend in (native, TORCH))
    near(found.error, expected.error)
    near(found.dots, expected.dots)


def test_a_level_that_is_missing_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "load", lambda _: "this CPU has no AVX-512; use another level")
    with pytest.raises(ValueError, match="needs a compiled library; found none that fits: this CPU has no AVX-512"):
        NativeBackend("avx512")
