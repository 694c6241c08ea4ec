"""Similarity of representations: sums over rows give what Gram matrices give, with the invariances each measure is known for."""

import functools
import itertools
import math

import pytest
import torch

from sae_core.metrics.representation import (
    CrossMoments,
    Moments,
    cka,
    cross_moments,
    hsic,
    moments,
    participation_ratio,
    principal_angles,
    procrustes,
    variance_inside,
)

D = 11


@functools.cache
def rows(n: int = 137, d: int = D, seed: int = 0) -> torch.Tensor:
    """Rows with very unlike dimensions and an offset."""
    draw = torch.Generator().manual_seed(seed)
    spread = torch.logspace(-0.5, 1, d, dtype=torch.float64)
    return torch.randn(n, d, generator=draw, dtype=torch.float64) * spread + 3 * spread.flip(0)


def changed(x: torch.Tensor, size: float = 2.0, seed: int = 9) -> torch.Tensor:
    return x + size * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(d: int = D, seed: int = 5) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))[0]


def sums(a: torch.Tensor, b: torch.Tensor) -> tuple[Moments, Moments, CrossMoments]:
    return moments(a, a[:5].mean(0)), moments(b, b[:5].mean(0)), cross_moments(a, b, a[:5].mean(0), b[:5].mean(0))


def hsic_of_grams(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The formula as it is written, with n × n matrices."""
    K, L, n = (a @ a.T).fill_diagonal_(0), (b @ b.T).fill_diagonal_(0), len(a)
    one = torch.ones(n, dtype=a.dtype)
    bracket = (K @ L).trace() + (one @ K @ one) * (one @ L @ one) / ((n - 1) * (n - 2)) - 2 * (one @ K @ L @ one) / (n - 2)
    return bracket / (n * (n - 3))


def close(a: torch.Tensor, b: torch.Tensor | float, rtol: float = 1e-9, atol: float = 1e-12) -> None:
    torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b, dtype=torch.float64), rtol=rtol, atol=atol)


@pytest.mark.parametrize("n", [4, 5, 137])
def test_hsic_from_sums_is_hsic_from_gram_matrices(n: int) -> None:
    a, b = rows(n), changed(rows(n))[:, :7]
    close(hsic(*sums(a, b)), hsic_of_grams(a, b))
    expected = hsic_of_grams(a, b) / (hsic_of_grams(a, a) * hsic_of_grams(b, b)).sqrt()
    if n > 5:
        close(cka(*sums(a, b)), expected)


def test_hsic_is_unbiased() -> None:
    """Over all draws of 5 of 7 rows it averages to what it is over all 7, because it is a U-statistic; the biased one does not."""
    a, b = rows(7), changed(rows(7))
    draws = [hsic(*sums(a[list(some)], b[list(some)])) for some in itertools.combinations(range(7), 5)]
    close(torch.stack(draws).mean(), hsic(*sums(a, b)))


def test_a_representation_is_like_itself() -> None:
    x = rows()
    close(cka(*sums(x, x)), 1.0)
    close(procrustes(*sums(x, x)).normalised, 0.0)
    assert abs(procrustes(*sums(x, x)).distance) < 1e-9 * moments(x, x.mean(0)).square.trace()
    for found in principal_angles(*sums(x, x)[:2], shares=[0.9, 0.99]):
        close(found.angles, torch.zeros(found.rank), atol=1e-7)


def test_rotating_one_side_moves_neither_cka_nor_procrustes() -> None:
    a, b = rows(), changed(rows())
    close(cka(*sums(a, b @ rotation())), cka(*sums(a, b)))
    close(procrustes(*sums(a, b @ rotation())).distance, procrustes(*sums(a, b)).distance)
    close(participation_ratio(sums(a, b @ rotation())[1]), participation_ratio(sums(a, b)[1]))
    assert cka(*sums(a, b)) < 0.999


def test_rotating_both_sides_leaves_the_angles() -> None:
    a, b = rows(), changed(rows())
    turned = principal_angles(*sums(a @ rotation(), b @ rotation())[:2], shares=[0.5, 0.9])
    for before, after in zip(principal_angles(*sums(a, b)[:2], shares=[0.5, 0.9]), turned, strict=True):
        assert before.rank == after.rank
        close(after.angles, before.angles, rtol=1e-6)
        assert before.angles.max() > 0.01


def test_isotropic_scaling_moves_only_the_plain_distance() -> None:
    a, b = rows(), changed(rows())
    close(cka(*sums(a, 7 * b)), cka(*sums(a, b)))
    close(procrustes(*sums(a, 7 * b)).normalised, procrustes(*sums(a, b)).normalised)
    close(participation_ratio(sums(a, 7 * b)[1]), participation_ratio(sums(a, b)[1]))
    close(procrustes(*sums(a, 2 * a)).distance, sums(a, a)[0].scatter.trace())


def test_a_mean_shift_is_not_seen() -> None:
    a, b = rows(), rows() + 50 * rows(1, seed=3)
    close(cka(*sums(a, b)), 1.0)
    close(procrustes(*sums(a, b)).normalised, 0.0, atol=1e-9)
    for found in principal_angles(*sums(a, b)[:2], shares=[0.9]):
        close(found.angles, torch.zeros(found.rank), atol=1e-6)


def test_the_centre_drops_out() -> None:
    a, b = rows(), changed(rows())
    far = torch.full((D,), 40.0)
    moved = moments(a, far), moments(b, -far), cross_moments(a, b, far, -far)
    close(cka(*moved), cka(*sums(a, b)), rtol=1e-7)
    close(procrustes(*moved).distance, procrustes(*sums(a, b)).distance, rtol=1e-7)
    close(participation_ratio(moved[0]), participation_ratio(sums(a, b)[0]), rtol=1e-7)


def test_independent_representations_average_to_zero_where_the_biased_cka_does_not() -> None:
    found, biased = [], []
    for seed in range(300):
        a, b = rows(24, 40, seed), rows(24, 40, 1000 + seed)
        found.append(cka(*sums(a, b)))
        a, b = a - a.mean(0), b - b.mean(0)
        biased.append((a.T @ b).square().sum() / ((a.T @ a).norm() * (b.T @ b).norm()))
    error = torch.stack(found).std() / len(found) ** 0.5
    assert abs(torch.stack(found).mean()) < 3 * error
    assert torch.stack(biased).mean() > 30 * error


def test_batches_and_their_order_do_not_matter_and_parts_can_be_taken_out() -> None:
    a, b = rows(), changed(rows())
    order = torch.randperm(len(a), generator=torch.Generator().manual_seed(1))
    whole, centre = sums(a, b), (a[:5].mean(0), b[:5].mean(0))
    parts = [(moments(a[i], centre[0]), moments(b[i], centre[1]), cross_moments(a[i], b[i], *centre)) for i in order.split(17)]
    streamed = [functools.reduce(lambda x, y: x + y, kind) for kind in zip(*parts, strict=True)]
    for one, other in zip(streamed, whole, strict=True):
        for mine, theirs in zip(one, other, strict=True):
            close(mine, theirs, atol=1e-6)
    rest = [one - part for one, part in zip(streamed, parts[0], strict=True)]
    left = torch.cat(order.split(17)[1:])
    close(cka(*rest), cka(*sums(a[left], b[left])))


def test_memory_does_not_depend_on_rows() -> None:
    few, many = sums(rows(8), rows(8)), sums(rows(500), rows(500))
    assert [part.shape for one in few for part in one] == [part.shape for one in many for part in one]


def test_float32_rows_agree_with_float64_rows() -> None:
    a, b = rows(), changed(rows())
    single, double = sums(a.float(), b.float()), sums(a, b)
    close(cka(*single), cka(*double), rtol=1e-5)
    close(procrustes(*single).normalised, procrustes(*double).normalised, rtol=1e-5)
    close(participation_ratio(single[0]), participation_ratio(double[0]), rtol=1e-5)


def test_procrustes_is_the_least_distance_over_rotations() -> None:
    a, b = rows(), changed(rows())[:, torch.randperm(D, generator=torch.Generator().manual_seed(0))]
    a, b = a - a.mean(0), b - b.mean(0)
    u, _, vh = torch.linalg.svd(b.T @ a)
    close(procrustes(*sums(a, b)).distance, (a - b @ u @ vh).square().sum())
    assert all((a - b @ rotation(seed=seed)).square().sum() > procrustes(*sums(a, b)).distance for seed in range(20))


def test_a_planted_turn_of_one_direction_is_the_one_angle() -> None:
    draw = torch.randn(400, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    scores = torch.linalg.qr(draw - draw.mean(0))[0] * torch.tensor([9.0, 5.0, 3.0], dtype=torch.float64)
    basis = rotation()
    for angle in (1e-9, 1e-3, 0.4, 1.3):
        now = basis[:3].clone()
        now[2] = math.cos(angle) * basis[2] + math.sin(angle) * basis[3]
        found = principal_angles(*sums(scores @ basis[:3], scores @ now)[:2], shares=[0.999])[0]
        assert found.rank == 3
        assert found.gap == pytest.approx(1.0)
        close(found.angles[:2], torch.zeros(2), atol=1e-7)
        close(found.angles[2], angle, rtol=1e-6, atol=1e-11)


def test_the_rank_is_the_least_that_holds_the_share() -> None:
    draw = torch.randn(500, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores = torch.linalg.qr(draw - draw.mean(0))[0] * torch.tensor([60.0, 30.0, 9.0, 1.0], dtype=torch.float64).sqrt()
    own = moments(scores, scores[0])
    assert [found.rank for found in principal_angles(own, own, shares=[0.5, 0.9, 0.95, 0.99, 1.0])] == [1, 2, 3, 3, 4]
    assert principal_angles(own, own, shares=[0.9])[0].gap == pytest.approx(1 - 9 / 30)
    close(participation_ratio(own), 100**2 / (60**2 + 30**2 + 9**2 + 1))
    close(variance_inside(own, torch.eye(4, dtype=torch.float64)[:, :2]), 0.9)


def test_unpaired_few_or_constant_rows_are_refused() -> None:
    a, b = rows(), changed(rows())
    with pytest.raises(ValueError, match=r"paired one by one; got 137, 136 and 136 pairs\. Use the same rows"):
        cka(moments(a, a[0]), moments(b[1:], b[0]), cross_moments(a[1:], b[1:], a[0], b[0]))
    with pytest.raises(ValueError, match=r"at least 4 rows; got 3\. Measure on more"):
        cka(*sums(a[:3], b[:3]))
    with pytest.raises(ValueError, match=r"must vary for CKA.*Measure on more"):
        cka(*sums(torch.zeros(9, 2), b[:9]))
    with pytest.raises(ValueError, match="must vary for principal angles"):
        principal_angles(moments(torch.zeros(9, D), torch.zeros(D)), moments(b, b[0]), [0.9])
