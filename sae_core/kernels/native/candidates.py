"""How `topk` finds the k largest of x · Wᵀ without multiplying all in float32: candidates from a product of int8 copies.

Each row is copied as whole numbers times one scale. A product of copies is exact, and what the copies take away bounds how far it
is from x · Wᵀ (Cauchy and Schwarz); the latents that could then be among the k largest are multiplied in float32. Rows of a
residual stream lie near a few directions, and bounds relative to their whole norm would leave many latents: then the copies are of
what remains of the rows beyond their principal directions, and the product along these is made in float32.

Whatever found the candidates, each is multiplied in the same order of additions: the results are the same to the bit. So the way
may be chosen by what it costs on some rows, and chosen anew as weights move.
"""

import logging
from collections.abc import Callable
from ctypes import byref, c_int64
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int, Int8
from torch import Tensor

from sae_core.kernels.gradient import Matrix
from sae_core.kernels.native.arguments import Approximation, CopyTensors
from sae_core.kernels.native.library import TOO_MANY

log = logging.getLogger(__name__)

FLOAT32, AGAIN = 4, 15
"""What a multiplication costs in a product of float32, and for a candidate, where it costs 1 in a product of int8 (AVX-512)."""
RANKS = (0, 32, 64)
"""Numbers of principal directions to choose from."""
SAMPLE = 32
"""Rows on which the ways are tried."""
FITTED = 512
"""Rows that directions are fitted to, at most."""
KEPT_FOR = 256
"""Calls after which a way is chosen anew."""
SOON = 16
"""The same if there are 1.5 times the candidates there were at first."""
LENGTHS = range(2, (1 << 17) + 1)
"""Of rows: sums of so many products of int8 fit 32 bits. Of one number, torch 2.13 multiplies wrong ones."""
FEWEST_PER_K = 16
"""With fewer latents for each that is kept, selecting from a product in float32 is faster."""


class Int8Copy(NamedTuple):
    """Rows as whole numbers times a scale, and norms at least as large as true ones."""

    numbers: Int8[Tensor, "row d_model"]
    scales: Float[Tensor, " row"]
    sizes: Float[Tensor, " row"]
    """‖row‖."""
    errors: Float[Tensor, " row"]
    """‖row − its copy‖."""

    @property
    def structure(self) -> CopyTensors:
        """As the library reads it."""
        return CopyTensors(**self._asdict())


class Way(NamedTuple):
    """How candidates are found: from a product of int8 copies, or of the numbers themselves in float32."""

    int8: bool
    directions: Float[Tensor, "rank d_model"] | None = None
    """Along which the product is made in float32 all the same; of norm 1, or 1 % more."""

    def cost(self, rows: float, d_sae: int, d_model: int, again: float) -> float:
        """Of one of the rows that meet the same weights, if `again` of its latents are multiplied again."""
        if not self.int8:
            return (FLOAT32 * d_sae + AGAIN * again) * d_model
        rank = 0 if self.directions is None else len(self.directions)
        return (d_sae + AGAIN * again) * d_model + FLOAT32 * rank * d_sae * (1 + d_model / rows)

    def __str__(self) -> str:
        along = "" if self.directions is None else f" and one along {len(self.directions)} directions in float32"
        return f"a product in int8{along}" if self.int8 else "a product in float32"


@dataclass(kw_only=True)
class NativeMatrix(Matrix):
    """Weights with what follows them: a copy in int8, the products with directions, and how candidates were found lately."""

    copy: Int8Copy | None = None
    along: Float[Tensor, "rank d_sae"] | None = None
    way: Way | None = None
    calls: int = 0
    """For which the way was kept."""
    usual: float = 0
    """Candidates per row at the first of them."""

    @property
    def stays(self) -> bool:
        """Whether the weights are read and not trained."""
        return self.exp_avg.numel() == 0


class Selecting(NamedTuple):
    """What is selected from, and where it is written."""

    rows: Float[Tensor, "row d_model"]
    matrix: NativeMatrix
    b_enc: Float[Tensor, " d_sae"]
    absolute: bool
    latents: Int[Tensor, "row k"]
    values: Float[Tensor, "row k"]

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Rows, d_sae, d_model."""
        d_sae, d_model = self.matrix.weights.shape
        return len(self.rows), d_sae, d_model

    def some(self, most: int) -> "Selecting":
        """The same for some of the rows, written elsewhere."""
        rows = _some(self.rows, most)
        latents, values = (torch.empty(len(rows), part.shape[1], dtype=part.dtype) for part in (self.latents, self.values))
        return self._replace(rows=rows, latents=latents, values=values)


def serves(d_sae: int, d_model: int, k: int) -> bool:
    """Whether candidates are worth looking for."""
    return d_model in LENGTHS and d_sae >= FEWEST_PER_K * k


def int8_product(a: Int8[Tensor, "m n"], b: Int8[Tensor, "k n"], out: Int[Tensor, "m k"] | None = None) -> Int[Tensor, "m k"]:
    """a · bᵀ in int32."""
    # torch has no public name for it
    return torch._int_mm(a, b.T) if out is None else torch._int_mm(a, b.T, out=out)  # pyright: ignore[reportPrivateImportUsage]


@cache
def int8_products_are_exact() -> bool:
    """Whether torch adds up products of int8 without saturating on the way."""
    if not torch.backends.mkldnn.is_available():
        return False
    signs = torch.where(torch.arange(64 * 512).view(64, 512) % 7 < 4, 127, -127)
    signs[:8], signs[8:16] = 127, -127
    numbers = signs.to(torch.int8)
    return torch.equal(int8_product(numbers, numbers).long(), signs @ signs.T)


class CandidateSearch:
    """The k largest by candidates, with the functions of the library."""

    def __init__(self, functions: Any, buffer: Callable[[int, int, torch.dtype], Tensor]) -> None:
        """`buffer` gives room for a matrix until it is asked again."""
        self._call, self._buffer = functions, buffer

    def copied(self, rows: Tensor, into: Int8Copy | None = None) -> Int8Copy:
        """A copy of the rows."""
        copy = into or Int8Copy(torch.empty_like(rows, dtype=torch.int8), *rows.new_empty(3, len(rows)))
        self._call.sae_copy(rows, *rows.shape, byref(copy.structure), torch.get_num_threads())
        return copy

    def topk(self, selecting: Selecting) -> None:
        """Writes the k largest, found in the way that is kept for this matrix."""
        matrix, (batch, d_sae, _) = selecting.matrix, selecting.sizes
        if matrix.way is None or matrix.calls >= KEPT_FOR:
            _take(matrix, self._cheapest(selecting))
        assert matrix.way is not None, "taken above"
        # from here on a product in float32 would have taken less
        limit = batch * d_sae * (FLOAT32 - 1) // AGAIN if matrix.way.int8 else batch * d_sae
        multiplied = self.attempt(matrix.way, selecting, limit)
        if multiplied > limit:
            _take(matrix, Way(int8=False))
            multiplied = self.attempt(Way(int8=False), selecting, batch * d_sae)
            matrix.usual, matrix.calls = multiplied / batch, KEPT_FOR - SOON
        elif matrix.calls == 0:
            matrix.usual = multiplied / batch
        elif matrix.calls >= SOON and multiplied > 1.5 * matrix.usual * batch:
            matrix.calls = KEPT_FOR
        matrix.calls += 1

    def _cheapest(self, selecting: Selecting) -> Way:
        """The way that costs least on some of the rows."""
        (batch, d_sae, d_model), sample = selecting.sizes, selecting.some(SAMPLE)
        directions = principal_directions(_some(selecting.rows, FITTED), max(RANKS))
        best, k, met = Way(int8=False), float(selecting.latents.shape[1]), torch.inf if selecting.matrix.stays else float(batch)
        least = best.cost(met, d_sae, d_model, k)
        for rank in (rank for rank in RANKS if rank <= len(directions)):
            way = Way(int8=True, directions=directions[:rank] if rank else None)
            if way.cost(met, d_sae, d_model, k) >= least:
                continue
            selecting.matrix.along = None
            again = self.attempt(way, sample, len(sample.rows) * d_sae) / len(sample.rows)
            if way.cost(met, d_sae, d_model, again) < least:
                best, least = way, way.cost(met, d_sae, d_model, again)
        return best

    def attempt(self, way: Way, selecting: Selecting, limit: int) -> int:
        """How many latents of all rows were multiplied again; if it were more than `limit`, nothing is written."""
        rows, matrix, b_enc, absolute, latents, values = selecting
        batch, d_sae, d_model = selecting.sizes
        rest, product, known, along, directions = rows, None, None, None, way.directions
        if matrix.copy is None:
            matrix.copy = self.copied(matrix.weights)
        if directions is not None:
            along = rows @ directions.T
            matrix.along = directions @ matrix.weights.T if matrix.along is None else matrix.along
            known = torch.mm(along, matrix.along, out=self._buffer(batch, d_sae, torch.float32))
            rest = torch.addmm(rows, along, directions, alpha=-1)
        copy = self.copied(rest)
        if way.int8:
            product = int8_product(copy.numbers, matrix.copy.numbers, out=self._buffer(batch, d_sae, torch.int32))
        else:
            known = torch.mm(rows, matrix.weights.T, out=self._buffer(batch, d_sae, torch.float32))
        near, multiplied = Approximation.of(product, known, along, copy.structure, matrix.copy.structure), c_int64()
        status = self._call.sae_topk_certain(
            *(byref(near), b_enc, rows, matrix.weights, batch, d_sae, d_model, latents.shape[1], absolute, limit),
            *(byref(multiplied), latents, values, torch.get_num_threads()),
        )
        assert (status == TOO_MANY) == (multiplied.value > limit), "as the library counts"
        return multiplied.value


def _take(matrix: NativeMatrix, way: Way) -> None:
    if matrix.way is None or matrix.way.int8 != way.int8:
        log.info("candidates of %d latents: from %s", len(matrix.weights), way)
    matrix.way, matrix.along, matrix.calls = way, None, 0


def _some(rows: Tensor, most: int) -> Tensor:
    return rows[:: -(-len(rows) // most)].contiguous()


def principal_directions(rows: Float[Tensor, "row d_model"], most: int) -> Float[Tensor, "rank d_model"]:
    """About the directions along which rows have the largest sums of squares, the largest first: up to `most`, one for 4 rows.

    Subspace iteration from rows of the batch (Halko, Martinsson and Tropp 2011, section 4.5). They need not be exact: they only say
    of what copies are made.
    """
    most = min(most, len(rows) // 4, rows.shape[1] // 4)
    if most == 0 or not rows.isfinite().all():
        return rows[:0]
    basis = _some(rows, most).T
    for _ in range(3):
        basis = torch.linalg.qr(rows.T @ (rows @ basis)).Q
    met = rows @ basis
    turned = torch.linalg.eigh(met.T @ met).eigenvectors.flip(1).T @ basis.T
    return turned.contiguous() if turned.isfinite().all() else rows[:0]
