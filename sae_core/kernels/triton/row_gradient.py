"""One row of a gradient at a time, from its entries or from a matrix, and the squares of all rows; sums in a fixed order.

A latent that fires on most rows would keep one program busy while the others wait. Sums of long lists are therefore taken
beforehand, piece by piece of the sorted entries, and each list is then a sum of pieces.
"""

from typing import NamedTuple, final, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float
from torch import Tensor

from sae_core.kernels.backend import Gradient
from sae_core.kernels.gradient import RowGradient
from sae_core.kernels.triton.launch import launch, power_of_two, share_of

TOGETHER = 4
"""Entries whose rows are on their way at once."""
PIECE = 64
"""Entries of a piece; lists longer than it are long. Two of those at most have a part in a piece, one of them its first entry."""


@final
class PieceGradient(RowGradient):
    """Entries, with sums over what long lists have in each piece: the list of its first entry, and one that begins in it."""

    pieces: Float[Tensor, "piece 2 d_model"]
    """What belongs to no long list is not written."""


class Parts(NamedTuple):
    """Where kernels find a gradient: in a matrix, or in entries with pieces or without; and rows that come on top."""

    matrix: Tensor | None = None
    offsets: Tensor | None = None
    entry_rows: Tensor | None = None
    coefficients: Tensor | None = None
    rows: Tensor | None = None
    pieces: Tensor | None = None
    extra_places: Tensor | None = None
    """Of each latent: which of the extra rows is its own, or −1."""
    extra_rows: Tensor | None = None


@triton.jit
@no_type_check
def _sum_of_entries(begin, end, entry_rows, coefficients, rows, column, d_model, TOGETHER, COLUMNS):
    found = tl.zeros([COLUMNS], tl.float32)
    for first in range(begin, end, TOGETHER):
        place = first + tl.arange(0, TOGETHER)
        row = tl.load(entry_rows + place, place < end, other=0)
        coefficient = tl.load(coefficients + place, place < end, other=0.0)
        listed = (place < end)[:, None] & (column < d_model)[None, :]
        tile = tl.load(rows + row[:, None] * d_model + column[None, :], listed, other=0.0)
        found += tl.sum(tile * coefficient[:, None], 0)
    return found


@triton.jit
@no_type_check
def _sum_of_pieces(begin, end, pieces, column, d_model, PIECE, TOGETHER, COLUMNS):
    found = tl.zeros([COLUMNS], tl.float32)
    behind = (end + PIECE - 1) // PIECE
    for first in range(begin // PIECE, behind, TOGETHER):
        place = first + tl.arange(0, TOGETHER)
        listed = (place < behind)[:, None] & (column < d_model)[None, :]
        row = 2 * place + (place * PIECE < begin).to(place.dtype)
        found += tl.sum(tl.load(pieces + row[:, None] * d_model + column[None, :], listed, other=0.0), 0)
    return found


@triton.jit
@no_type_check
def gradient_row(
    latent, column, matrix, offsets, entry_rows, coefficients, rows, pieces, extra_places, extra_rows, d_model,
    PIECE, TOGETHER, COLUMNS,
):  # fmt: skip
    """Row `latent` of the gradient, 0 outside of d_model columns."""
    if matrix is not None:
        found = tl.load(matrix + latent * d_model + column, column < d_model, other=0.0)
    else:
        begin = tl.load(offsets + latent)
        end = tl.load(offsets + latent + 1)
        long = False
        if pieces is not None:
            long = end - begin > PIECE
        if long:
            found = _sum_of_pieces(begin, end, pieces, column, d_model, PIECE, TOGETHER, COLUMNS)
        else:
            found = _sum_of_entries(begin, end, entry_rows, coefficients, rows, column, d_model, TOGETHER, COLUMNS)
    if extra_places is not None:
        place = tl.load(extra_places + latent)
        found += tl.load(extra_rows + place * d_model + column, (column < d_model) & (place >= 0), other=0.0)
    return found


@triton.jit
@no_type_check
def _pieces_kernel(
    offsets, entry_rows, latents, coefficients, rows, pieces, entries, d_model,
    PIECE: tl.constexpr, TOGETHER: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    piece = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    start = piece * PIECE
    stop = tl.minimum(start + PIECE, entries)
    head = tl.load(latents + start)
    for which in range(2):
        latent = tl.load(latents + tl.where(which == 0, start, stop - 1))
        begin = tl.load(offsets + latent)
        end = tl.load(offsets + latent + 1)
        if (end - begin > PIECE) & ((which == 0) | (latent != head)):
            begin, end = tl.maximum(begin, start), tl.minimum(end, stop)
            found = _sum_of_entries(begin, end, entry_rows, coefficients, rows, column, d_model, TOGETHER, COLUMNS)
            tl.store(pieces + (2 * piece + which) * d_model + column, found, column < d_model)


@triton.jit
@no_type_check
def _row_squares_kernel(
    matrix, offsets, entry_rows, coefficients, rows, pieces, extra_places, extra_rows, needless, squares, d_model,
    PIECE: tl.constexpr, TOGETHER: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    latent = tl.program_id(0).to(tl.int64)
    wanted = True
    if needless is not None:
        wanted = tl.load(needless) == 0
    if wanted:
        row = gradient_row(
            latent, tl.arange(0, COLUMNS), matrix, offsets, entry_rows, coefficients, rows, pieces, extra_places, extra_rows,
            d_model, PIECE, TOGETHER, COLUMNS,
        )  # fmt: skip
        tl.store(squares + latent, tl.sum(row * row, 0))
    else:
        tl.store(squares + latent, 0.0)


def shape_of(gradient: Gradient) -> tuple[int, int]:
    """d_sae and d_model."""
    if isinstance(gradient, RowGradient):
        return len(gradient.entries.offsets) - 1, gradient.rows.shape[1]
    return gradient.shape[0], gradient.shape[1]


def in_pieces(gradient: RowGradient) -> PieceGradient:
    """The gradient with the sums of its long lists."""
    entries, count, d_model = gradient.entries, len(gradient.coefficients), gradient.rows.shape[1]
    found = PieceGradient(*gradient)
    found.pieces = torch.empty(share_of(count, PIECE), 2, d_model, device=gradient.rows.device)
    if count:
        columns = power_of_two(d_model)
        launch(
            _pieces_kernel, (len(found.pieces),), entries.offsets, entries.rows, entries.latents, gradient.coefficients,
            gradient.rows, found.pieces, count, d_model, PIECE=PIECE, TOGETHER=TOGETHER, COLUMNS=columns, warps=warps(columns),
        )  # fmt: skip
    return found


def parts_of(gradient: Gradient) -> Parts:
    """The gradient as kernels take it."""
    if isinstance(gradient, Tensor):
        return Parts(matrix=gradient)
    entries, extra = gradient.entries, gradient.extra
    pieces = gradient.pieces if isinstance(gradient, PieceGradient) else None
    found = Parts(None, entries.offsets, entries.rows, gradient.coefficients, gradient.rows, pieces)
    if extra is None:
        return found
    places = torch.full((shape_of(gradient)[0],), -1, dtype=torch.int64, device=extra.rows.device)
    places[extra.latents] = torch.arange(len(extra.latents), device=places.device)
    return found._replace(extra_places=places, extra_rows=extra.rows)


def warps(columns: int) -> int:
    """Warps of a program that holds several vectors of so many columns: 8 or 16 numbers of each in a thread."""
    return min(max(columns // 256, 1), 16)


def squared_norm(gradient: Gradient, needless: Bool[Tensor, ""] | None = None) -> Float[Tensor, ""]:
    """Σ of squares; of entries each row is built once more for it and not kept.

    Args:
        needless: on the device; where it is true, 0 is returned and no row is built.
    """
    d_sae, d_model = shape_of(gradient)
    columns = power_of_two(d_model)
    squares = torch.empty(d_sae, device=(gradient if isinstance(gradient, Tensor) else gradient.rows).device)
    launch(
        _row_squares_kernel, (d_sae,), *parts_of(gradient), needless, squares, d_model,
        PIECE=PIECE, TOGETHER=TOGETHER, COLUMNS=columns, warps=warps(columns),
    )  # fmt: skip
    return squares.sum()
