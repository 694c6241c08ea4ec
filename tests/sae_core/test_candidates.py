"""The ways to the k largest on a CPU: whatever finds candidates, the set is that of float64 to rounding, the same to the bit."""

import logging
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from sae_core.kernels.codes import Codes, equally_many
from sae_core.kernels.gradient import AdamStep
from sae_core.kernels.native import candidates
from sae_core.kernels.native.backend import NativeBackend
from sae_core.kernels.native.candidates import (
    CandidateSearch,
    NativeMatrix,
    Selecting,
    Way,
    int8_products_are_exact,
    principal_directions,
)
from sae_core.kernels.native.library import unavailable

if unavailable("portable"):
    pytest.skip(f"no compiled library: {unavailable('portable')}", allow_module_level=True)

FLOAT32, INT8 = Way(int8=False), Way(int8=True)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def native() -> NativeBackend:
    return NativeBackend(int8=True)


def search_of(native: NativeBackend) -> CandidateSearch:
    assert native._search is not None
    return native._search


def encoder_of(native: NativeBackend, weights: Tensor) -> NativeMatrix:
    encoder = native.encoder(weights)
    assert isinstance(encoder, NativeMatrix)
    return encoder


def asked(native: NativeBackend, rows: Tensor, weights: Tensor, b_enc: Tensor, k: int, absolute: bool = False) -> Selecting:
    latents, values = torch.full((len(rows), k), -1), torch.full((len(rows), k), torch.nan)
    return Selecting(rows, encoder_of(native, weights), b_enc, absolute, latents, values)


def found_by(native: NativeBackend, way: Way, selecting: Selecting) -> Codes:
    everything = len(selecting.rows) * len(selecting.b_enc)
    selecting.matrix.along = None
    assert search_of(native).attempt(way, selecting, everything) <= everything
    return equally_many(selecting.latents.clone(), selecting.values.clone())


def assert_largest(codes: Codes, z: Tensor, k: int, absolute: bool, slack: float) -> None:
    """k latents of each row, rising, at their values, and none left out is larger by more than float32 rounds."""
    latents, values = codes.latents.view(len(z), k), codes.values.view(len(z), k)
    assert (latents.diff(dim=1) > 0).all()
    assert ((values - z.gather(1, latents)).abs() <= slack).all()
    ranked = z.abs() if absolute else z
    left_out = ranked.scatter(1, latents, -torch.inf).amax(1)
    assert (left_out <= ranked.gather(1, latents).amin(1) + 2 * slack).all()


KINDS = ("random", "alike", "positive", "lopsided", "sizes", "halfway", "near a plane", "zeros", "cancelling")


def hard(kind: str, batch: int, d_model: int, d_sae: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, weights and biases between whose pre-activations copies cannot tell, or whose bounds are far from each other."""
    rows, weights, b_enc = drawn(batch, d_model, seed=seed), drawn(d_sae, d_model, seed=seed + 1), torch.zeros(d_sae)
    match kind:
        case "alike":
            weights = weights[:1] + weights * 2**-11
        case "cancelling":  # terms cancel each other: what is left is as small as what sums of float32 round away
            weights = weights[:1] + weights * 2**-22
            rows -= (rows @ weights[:1].T) * weights[:1] / weights[:1].square().sum()
        case "positive":
            rows, weights = rows.abs(), weights.abs()
        case "lopsided":
            rows, weights = rows * torch.logspace(-6, 3, d_model), weights * torch.logspace(3, -4, d_model)
        case "sizes":
            weights, b_enc = weights * torch.logspace(-3, 2, d_sae).unsqueeze(1), drawn(d_sae, seed=seed + 2) * 5
        case "halfway":  # each number but the first lies in the middle between two whole numbers of the copy
            rows, weights = ((numbers * 20).floor().clamp(-126, 125) + 0.5 for numbers in (rows, weights))
            rows[:, 0], weights[:, 0] = 127, 127
        case "near a plane":
            rows = drawn(batch, 2, seed=seed + 3) @ drawn(2, d_model, seed=seed + 4) * 50 + rows * 0.1
        case "zeros":
            rows[::2], weights[::3] = 0, 0
    return rows, weights, b_enc


def rounding(rows: Tensor, weights: Tensor, b_enc: Tensor) -> float:
    """At most what a float32 sum is off: d 2⁻²⁴ of the sum of sizes, and one rounding of the sum with the bias."""
    return float((rows.abs() @ weights.abs().T + b_enc.abs()).max()) * (rows.shape[1] + 4) * 2**-24


@settings(max_examples=80, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    shape=st.tuples(st.integers(1, 12), st.integers(2, 80), st.integers(1, 300)),
    share=st.floats(0, 1),
    absolute=st.booleans(),
    rank=st.integers(1, 5),
    seed=st.integers(0, 10_000),
)
def test_every_way_finds_the_same_latents_and_none_is_missed(
    native: NativeBackend, kind: str, shape: tuple[int, int, int], share: float, absolute: bool, rank: int, seed: int
) -> None:
    rows, weights, b_enc = hard(kind, *shape, seed)
    k = max(1, int(share * shape[2]))
    selecting = asked(native, rows, weights, b_enc, k, absolute)
    first = found_by(native, FLOAT32, selecting)
    assert_largest(first, rows.double() @ weights.double().T + b_enc, k, absolute, rounding(rows, weights, b_enc))
    # any directions do, also of rows that do not lie near them, and of each other
    for directions in (None, functional.normalize(drawn(rank, shape[1], seed=seed + 5)), functional.normalize(rows[:rank] + 1e-6)):
        other = found_by(native, Way(int8=True, directions=directions), selecting)
        assert torch.equal(first.latents, other.latents)
        assert torch.equal(first.values, other.values)


def misjudged_weights() -> tuple[Tensor, Tensor, Tensor]:
    """Of the first latent the copy takes away all that it can, in the direction of the row; to the second it adds as much."""
    rows, weights, b_enc = torch.ones(1, 64), torch.zeros(16, 64), torch.zeros(16)
    weights[0], weights[1] = 10.4999, 10.5001
    weights[:2, 0], b_enc[1] = 127, -0.05
    return rows, weights, b_enc


def misjudged_rows() -> tuple[Tensor, Tensor, Tensor]:
    rows, weights, b_enc = torch.full((1, 64), 10.4999), torch.zeros(16, 64), torch.zeros(16)
    rows[0, 0] = 127
    weights[0], weights[1], b_enc[1] = 1, -1, 1576.9
    return rows, weights, b_enc


@pytest.mark.parametrize("case", [misjudged_weights, misjudged_rows])
def test_the_bounds_hold_where_all_errors_add_up(native: NativeBackend, case: Callable[[], tuple[Tensor, Tensor, Tensor]]) -> None:
    rows, weights, b_enc = case()
    search, truth = search_of(native), (rows.double() @ weights.double().T + b_enc)[0]
    copies = [(copy.numbers * copy.scales.unsqueeze(1)) for copy in (search.copied(rows), search.copied(weights))]
    misjudged = (copies[0] @ copies[1].T + b_enc)[0]
    assert truth[0] > truth[1] > truth[2]
    assert misjudged[1] - misjudged[0] > 60
    assert found_by(native, INT8, asked(native, rows, weights, b_enc, 1)).latents.item() == 0


def test_bounds_cover_what_sums_of_float32_round_away(native: NativeBackend) -> None:
    selecting = asked(native, *hard("cancelling", 64, 800, 500, seed=0), 20)
    by_product, by_copies = found_by(native, FLOAT32, selecting), found_by(native, INT8, selecting)
    assert torch.equal(by_product.latents, by_copies.latents)
    product = selecting.rows @ selecting.matrix.weights.T
    assert not torch.equal(product.topk(20).indices.sort().values, by_copies.latents.view(64, 20)), "such rows are hard"


def test_copies_alone_would_miss_some(native: NativeBackend) -> None:
    """The rows that the tests above pass on are hard: values as they come from the copies fail them."""
    for kind in ("random", "alike", "positive", "halfway"):
        rows, weights, b_enc = hard(kind, 12, 64, 256, seed=0)
        copies = [(copy.numbers * copy.scales.unsqueeze(1)) for copy in map(search_of(native).copied, (rows, weights))]
        rounded = (copies[0] @ copies[1].T).topk(16).indices.sort().values
        exact = found_by(native, INT8, asked(native, rows, weights, b_enc, 16))
        assert not torch.equal(exact.latents.view(12, 16), rounded), kind


def test_copies_come_with_true_bounds(native: NativeBackend) -> None:
    rows = drawn(130, 67) * torch.logspace(-18, 15, 130).unsqueeze(1)
    rows[3, :20], rows[4], rows[5, 1:] = 1e-39, 0, 0
    copy = search_of(native).copied(rows)
    assert int(copy.numbers.abs().max()) == 127
    lost = rows.double() - copy.numbers * copy.scales.double().unsqueeze(1)
    for bound, of in ((copy.sizes, rows.double()), (copy.errors, lost)):
        assert (bound >= of.norm(dim=1)).all()
        assert (bound <= of.norm(dim=1) * 1.001 + rows.norm(dim=1) * 1e-6 + 1e-18).all()
    assert (lost.abs().amax(1) <= copy.scales * 0.5001 + 1e-29).all()


def test_numbers_that_are_not_finite_have_no_bounds(native: NativeBackend) -> None:
    rows = drawn(3, 67)
    rows[0, 5], rows[1, 60], rows[2, 1] = torch.nan, torch.inf, -torch.inf
    copy = search_of(native).copied(rows)
    assert not copy.sizes.isfinite().any()
    assert not copy.errors.isfinite().any()


def test_a_value_does_not_depend_on_what_is_selected_beside_it(native: NativeBackend) -> None:
    rows, weights, b_enc = drawn(64, 83), drawn(700, 83, seed=1), drawn(700, seed=2)
    dense = torch.full((64, 700), torch.nan)
    for k in (40, 17, 8, 3, 1):
        for part in (slice(0, 64), slice(5, 6), slice(7, 30)):
            codes = found_by(native, INT8, asked(native, rows[part].contiguous(), weights, b_enc, k))
            latents = codes.latents.view(-1, k)
            before = dense[part].gather(1, latents)
            assert ((before == codes.values.view(-1, k)) | before.isnan()).all()
            dense[part] = dense[part].scatter(1, latents, codes.values.view(-1, k))


def test_principal_directions_hold_most_of_rows_that_lie_near_a_plane() -> None:
    rows = drawn(256, 3) @ drawn(3, 60, seed=1) * 30 + drawn(256, 60, seed=2)
    directions = principal_directions(rows, 64)
    assert directions.shape == (15, 60)
    torch.testing.assert_close(directions @ directions.T, torch.eye(15), atol=1e-5, rtol=0)
    truth = torch.linalg.svdvals(rows.double()).square()
    held = (rows.double() @ directions.T.double()).square().sum(0)
    assert float(held[:3].sum() / truth[:3].sum()) > 1 - 1e-4
    assert (held[:3].diff() <= 0).all()
    assert len(principal_directions(rows[:3], 64)) == 0
    rows[3, 3] = torch.nan
    assert len(principal_directions(rows, 64)) == 0


def along_directions(count: int, length: float = 20.0) -> tuple[Tensor, Tensor]:
    """Rows that are long along 20 directions, which most of the weights hardly see."""
    directions = torch.linalg.qr(drawn(160, 20, seed=6)).Q.T
    weights = drawn(2000, 160, seed=1)
    weights -= 0.98 * (weights @ directions.T) @ directions
    return drawn(count, 20, seed=5) @ directions * length + drawn(count, 160, seed=7), weights


@pytest.mark.parametrize(
    ("kind", "int8", "rank"), [("random", True, 0), ("near directions", True, 32), ("alike", False, None)], ids=str
)
def test_the_way_that_costs_least_is_taken(native: NativeBackend, kind: str, int8: bool, rank: int | None) -> None:
    rows, weights, b_enc = hard("random" if kind == "near directions" else kind, 512, 160, 2000, seed=0)
    if kind == "near directions":
        rows, weights = along_directions(512)
    selecting = asked(native, rows, weights, b_enc, 20)
    search_of(native).topk(selecting)
    way = selecting.matrix.way
    assert way is not None
    assert way.int8 == int8
    assert (0 if way.directions is None else len(way.directions)) == (rank or 0)
    assert_largest(
        equally_many(selecting.latents, selecting.values),
        rows.double() @ weights.double().T,
        20,
        False,
        rounding(rows, weights, b_enc),
    )


def test_a_product_in_float32_takes_over_where_bounds_leave_too_many(
    native: NativeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows change after the way was chosen: the result is right at once, and the log says what happened."""
    (other, weights), b_enc = along_directions(512, length=100.0), torch.zeros(2000)
    selecting, search = asked(native, drawn(512, 160), weights, b_enc, 20), search_of(native)
    with caplog.at_level(logging.INFO, candidates.__name__):
        search.topk(selecting)
        assert selecting.matrix.way == INT8
        search.topk(selecting._replace(rows=other))
    assert selecting.matrix.way == FLOAT32
    assert [record.getMessage() for record in caplog.records] == [
        "candidates of 2000 latents: from a product in int8",
        "candidates of 2000 latents: from a product in float32",
    ]
    fresh = found_by(native, FLOAT32, asked(native, other, weights, b_enc, 20))
    assert torch.equal(fresh.latents, selecting.latents.view(-1))
    assert torch.equal(fresh.values, selecting.values.view(-1))


def test_a_way_is_chosen_anew_after_a_while_and_when_candidates_become_more(
    native: NativeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    (other, weights), b_enc = along_directions(512, length=100.0), torch.zeros(2000)
    selecting, search = asked(native, drawn(512, 160), weights, b_enc, 20), search_of(native)
    calls: list[int] = []
    cheapest = search._cheapest
    monkeypatch.setattr(search, "_cheapest", lambda given: (calls.append(selecting.matrix.calls), cheapest(given))[1])
    monkeypatch.setattr(candidates, "KEPT_FOR", 5)
    monkeypatch.setattr(candidates, "SOON", 3)
    for _ in range(11):
        search.topk(selecting)
    assert calls == [0, 5, 5]
    selecting.matrix.usual = 1  # as if there had been fewer
    for _ in range(4):
        search.topk(selecting)
    assert len(calls) == 4
    # rows that leave too many: in float32 for a while, not at every call anew
    search.topk(selecting._replace(rows=other))
    assert selecting.matrix.way == FLOAT32
    for _ in range(2):
        search.topk(selecting)
    assert len(calls) == 4
    search.topk(selecting)
    assert len(calls) == 5
    assert selecting.matrix.way == INT8


@pytest.mark.parametrize("by", ["adam", "hand"])
def test_weights_that_moved_are_multiplied_with_the_directions_anew(native: NativeBackend, by: str) -> None:
    rows, weights = along_directions(512)
    encoder = native.matrix(weights, selects=True)
    assert isinstance(encoder, NativeMatrix)
    native.topk(rows, encoder, torch.zeros(2000), 20, False, "fp32")
    assert encoder.along is not None
    if by == "adam":
        native.adam_(encoder, drawn(2000, 160, seed=9), AdamStep(0.1, 1))
    else:
        weights += 0.1 * drawn(2000, 160, seed=9)
        native.refresh(encoder)
    codes = native.topk(rows, encoder, torch.zeros(2000), 20, False, "fp32")
    fresh = native.topk(rows, native.encoder(weights), torch.zeros(2000), 20, False, "fp32")
    assert torch.equal(codes.latents, fresh.latents)
    assert torch.equal(codes.values, fresh.values)


def test_products_that_saturate_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def saturating(a: Tensor, b: Tensor) -> Tensor:
        """With instructions for unsigned numbers, whose products are added up two by two in 16 bits."""
        pairs = (a.int() + 128).view(len(a), -1, 2, 1) * b.int().view(1, -1, 2, b.shape[1])
        return (pairs.sum(2).clamp(-(2**15), 2**15 - 1).sum(1) - 128 * b.int().sum(0)).int()

    int8_products_are_exact.cache_clear()
    try:
        assert int8_products_are_exact() == torch.backends.mkldnn.is_available()
        monkeypatch.setattr(torch, "_int_mm", saturating)
        int8_products_are_exact.cache_clear()
        assert not int8_products_are_exact()
    finally:
        int8_products_are_exact.cache_clear()
