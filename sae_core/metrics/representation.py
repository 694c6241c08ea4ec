"""How alike two representations of the same rows are, from sums over rows: similarity, distance, subspaces, dimension.

All formulas need sums of products alone, so no n × n matrix is formed and memory does not depend on the number of rows. A fixed
centre c, near the mean, prevents cancellation and drops out of every result. Rows count as independent draws: sums of a part of
the prompts can be taken out again (`a - b`), which is what a jackknife over groups of prompts needs.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor


class Moments(NamedTuple):
    """Sums over rows in float64; y = x − c. `a + b` merges two streams, `a - b` takes one out again."""

    n: Float64[Tensor, ""]
    """Rows."""
    total: Float64[Tensor, " d_model"]
    """Σy."""
    square: Float64[Tensor, "d_model d_model"]
    """Σ y yᵀ."""
    cubic: Float64[Tensor, " d_model"]
    """Σ y‖y‖²."""
    quartic: Float64[Tensor, ""]
    """Σ‖y‖⁴."""

    def __add__(self, other: "Moments") -> "Moments":  # type: ignore[override]  # sums add up
        """Sums of both streams; both must be taken about the same centre."""
        return Moments(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    def __sub__(self, other: "Moments") -> "Moments":
        """Sums without those of a part of the rows."""
        return Moments(*(mine - theirs for mine, theirs in zip(self, other, strict=True)))

    @property
    def scatter(self) -> Float64[Tensor, "d_model d_model"]:
        """Σ (x−μ)(x−μ)ᵀ, by the shift theorem."""
        return self.square - torch.outer(self.total, self.total) / self.n


class CrossMoments(NamedTuple):
    """Sums over paired rows of two representations in float64; y = a − c, z = b − c'. They add up like `Moments`."""

    n: Float64[Tensor, ""]
    """Rows."""
    product: Float64[Tensor, "d_a d_b"]
    """Σ y zᵀ."""
    first: Float64[Tensor, " d_a"]
    """Σ y‖z‖²."""
    second: Float64[Tensor, " d_b"]
    """Σ z‖y‖²."""
    quartic: Float64[Tensor, ""]
    """Σ‖y‖²‖z‖²."""

    def __add__(self, other: "CrossMoments") -> "CrossMoments":  # type: ignore[override]  # sums add up
        """Sums of both streams; both must be taken about the same centres."""
        return CrossMoments(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    def __sub__(self, other: "CrossMoments") -> "CrossMoments":
        """Sums without those of a part of the rows."""
        return CrossMoments(*(mine - theirs for mine, theirs in zip(self, other, strict=True)))


def moments(x: Float[Tensor, "batch d_model"], centre: Float[Tensor, " d_model"]) -> Moments:
    """The sums of one batch of rows; the centre must be the same for all batches."""
    y = x.double() - centre.double()
    norm2 = y.square().sum(1)
    return Moments(y.new_tensor(len(y)), y.sum(0), y.T @ y, norm2 @ y, norm2.square().sum())


def cross_moments(
    a: Float[Tensor, "batch d_a"],
    b: Float[Tensor, "batch d_b"],
    centre_a: Float[Tensor, " d_a"],
    centre_b: Float[Tensor, " d_b"],
) -> CrossMoments:
    """The sums of one batch of paired rows; each centre must be that of the representation's own `moments`."""
    y, z = a.double() - centre_a.double(), b.double() - centre_b.double()
    y2, z2 = y.square().sum(1), z.square().sum(1)
    return CrossMoments(y.new_tensor(len(y)), y.T @ z, z2 @ y, y2 @ z, y2 @ z2)


def hsic(a: Moments, b: Moments, cross: CrossMoments) -> Float64[Tensor, ""]:
    """HSIC₁(K, L) of the linear kernels of paired rows, unbiased: 0 on average where the two are independent.

    [tr(KL) + (1ᵀK1)(1ᵀL1)/((n−1)(n−2)) − 2·1ᵀKL1/(n−2)] / (n(n−3)), K and L Gram matrices with their diagonals set to 0. With the
    diagonals taken off the sums of products: tr(KL) = ‖Σyzᵀ‖² − Σ‖y‖²‖z‖², 1ᵀK1 = ‖Σy‖² − Σ‖y‖² and
    1ᵀKL1 = (Σy)ᵀ(Σyzᵀ)(Σz) − (Σy)ᵀΣy‖z‖² − (Σz)ᵀΣz‖y‖² + Σ‖y‖²‖z‖².

    Raises:
        ValueError: fewer than 4 rows, or sums over unlike numbers of rows.

    Source: Song et al. 2012, Feature Selection via Dependence Maximization, J. Mach. Learn. Res. 13: the unbiased estimator HSIC₁.
    """
    n = float(cross.n)
    if not n == float(a.n) == float(b.n):
        raise ValueError(
            f"Rows must be paired one by one; got {float(a.n):.0f}, {float(b.n):.0f} and {n:.0f} pairs. Use the same rows for all."
        )
    if n < 4:
        raise ValueError(f"HSIC must have at least 4 rows; got {n:.0f}. Measure on more rows.")
    trace = cross.product.square().sum() - cross.quartic
    of_a, of_b = (own.total @ own.total - own.square.trace() for own in (a, b))
    both = a.total @ cross.product @ b.total - a.total @ cross.first - b.total @ cross.second + cross.quartic
    return (trace + of_a * of_b / ((n - 1) * (n - 2)) - 2 * both / (n - 2)) / (n * (n - 3))


def cka(a: Moments, b: Moments, cross: CrossMoments) -> Float64[Tensor, ""]:
    """Debiased linear CKA: HSIC₁(K,L)/√(HSIC₁(K,K)·HSIC₁(L,L)); 1 up to rotation, shift and scale, 0 on average if independent.

    A few rows of large norm can decide it, so sinks must have been dropped. It is debiased for independent rows: with rows
    clustered by prompt, pairs within a prompt leave a bias of the order of their share among all pairs.

    Raises:
        ValueError: fewer than 4 rows, unpaired sums, or rows without variance.

    Source: Nguyen et al. 2021, arXiv 2010.15327; on outliers Davari et al. 2023, arXiv 2210.16156.
    """
    within = hsic(a, a, _with_itself(a)), hsic(b, b, _with_itself(b))
    if not min(within) > 0:
        raise ValueError(
            f"Rows must vary for CKA; their own HSIC is {float(within[0]):.3g} and {float(within[1]):.3g}. Measure on more rows."
        )
    return hsic(a, b, cross) / (within[0] * within[1]).sqrt()


def _with_itself(own: Moments) -> CrossMoments:
    return CrossMoments(own.n, own.square, own.cubic, own.cubic, own.quartic)


class Procrustes(NamedTuple):
    """How far two centred representations lie apart after the best rotation or reflection."""

    distance: Float64[Tensor, ""]
    """‖A‖²_F + ‖B‖²_F − 2‖AᵀB‖_*, in squared units of the rows, a sum over rows."""
    normalised: Float64[Tensor, ""]
    """2 − 2‖AᵀB‖_* / (‖A‖_F‖B‖_F): the distance of both at unit size, 0 … 2; isotropic scaling does not move it."""


def procrustes(a: Moments, b: Moments, cross: CrossMoments) -> Procrustes:
    """Orthogonal Procrustes distance of paired rows, both centred at their means; 0 if one is a rotation of the other.

    Source: Schönemann 1966, Psychometrika 31; as a distance of representations Ding et al. 2021, arXiv 2108.01661.
    """
    size_a, size_b = a.scatter.trace(), b.scatter.trace()
    nuclear = torch.linalg.svdvals(cross.product - torch.outer(a.total, b.total) / cross.n).sum()
    return Procrustes(size_a + size_b - 2 * nuclear, 2 - 2 * nuclear / (size_a * size_b).sqrt())


def participation_ratio(own: Moments) -> Float64[Tensor, ""]:
    """(Σλ)²/Σλ² over the eigenvalues λ of the covariance: how many dimensions the rows fill, 1 … d_model.

    Source: Gao et al. 2017, A theory of multineuronal dimensionality, dynamics and measurement, bioRxiv 214262.
    """
    scatter = own.scatter
    return scatter.trace().square() / scatter.square().sum()


class PrincipalAngles(NamedTuple):
    """Angles between the subspaces of two representations that hold most of their variance."""

    rank: int
    """r: the least for which r principal components of the first representation hold the share of its variance."""
    angles: Float64[Tensor, " rank"]
    """Principal angles in radians, rising; 0: shared, π/2: orthogonal."""
    gap: float
    """(λ_r − λ_{r+1})/λ_r of the first representation, 1 if r is all: near 0 the r-th direction and its angle are arbitrary."""


def principal_angles(a: Moments, b: Moments, shares: Sequence[float]) -> list[PrincipalAngles]:
    """Principal angles between the top-r principal subspaces of both, for each share of the first one's variance.

    Angles are arccos of the singular values of U_rᵀV_r; below π/4, where that is inexact, arcsin of those of (I − U_r U_rᵀ)V_r.

    Raises:
        ValueError: rows of the first representation without variance.

    Source: Björck & Golub 1973, Math. Comp. 27, 579.
    """
    (values, u), (_, v) = (_principal_components(own.scatter) for own in (a, b))
    if not values.sum() > 0:
        raise ValueError("Rows must vary for principal angles; all are equal. Measure on more rows.")
    held, found = values.cumsum(0) / values.sum(), []
    for share in shares:
        rank = min(int((held < share * (1 - 1e-12)).sum()) + 1, len(values))
        following = float(values[rank]) if rank < len(values) else 0.0
        found.append(PrincipalAngles(rank, _angles(u[:, :rank], v[:, :rank]), 1 - following / float(values[rank - 1])))
    return found


def _principal_components(scatter: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, falling and not negative, and eigenvectors in columns."""
    values, vectors = torch.linalg.eigh(scatter)
    return values.flip(0).clamp(min=0), vectors.flip(1)


def _angles(u: Tensor, v: Tensor) -> Tensor:
    shared = u.T @ v
    cosines = torch.linalg.svdvals(shared).clamp(max=1)
    sines = torch.linalg.svdvals(v - u @ shared).flip(0).clamp(max=1)
    return torch.where(cosines.square() >= 0.5, sines.asin(), cosines.acos())


def variance_inside(own: Moments, basis: Float[Tensor, "d_model rank"]) -> Float64[Tensor, ""]:
    """Σ‖Qᵀ(x−μ)‖² / Σ‖x−μ‖²: share of the variance in the span of orthonormal columns Q, beside which a change in it is read."""
    q, scatter = basis.double(), own.scatter
    return (q * (scatter @ q)).sum() / scatter.trace()
