"""Reconstruction error from sums per prompt, so that any subset, merge or bootstrap over prompts costs a weighted sum.

Every ratio is one ratio of sums over the whole evaluation set, with one mean per dimension over that set (never per batch).
`weights` are how often each prompt counts, one row per bootstrap replicate; without them every prompt counts once.
"""

from typing import NamedTuple, final

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor


class ReconstructionSums(NamedTuple):
    """Sums over the rows of each prompt, in float64; e = x − x̂, c a fixed centre. `a + b` merges two streams."""

    n: Float64[Tensor, " prompt"]
    """Rows."""
    sse: Float64[Tensor, " prompt"]
    """Σ‖e‖²."""
    x2c: Float64[Tensor, " prompt"]
    """Σ‖x−c‖²."""
    xc: Float64[Tensor, "prompt d_model"]
    """Σ(x−c)."""
    x2: Float64[Tensor, " prompt"]
    """Σ‖x‖²."""
    xsum: Float64[Tensor, " prompt"]
    """Sum of all elements of x."""
    rowwise: Float64[Tensor, " prompt"]
    """Σ ‖e‖²/‖x−c‖², row by row about the centre c (not about the mean of the rows)."""
    l0: Float64[Tensor, " prompt"]
    """Active latents; 0 where they were not given."""

    def __add__(self, other: "ReconstructionSums") -> "ReconstructionSums":  # type: ignore[override]  # sums add up
        """Sums of both streams; both must be taken about the same centre."""
        return ReconstructionSums(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    @classmethod
    def zeros(cls, n_prompts: int, d_model: int, device: torch.device | str = "cpu") -> "ReconstructionSums":
        """Sums over no rows: where a stream starts."""
        shapes = {"xc": (n_prompts, d_model)}
        return cls(*(torch.zeros(shapes.get(name, (n_prompts,)), dtype=torch.float64, device=device) for name in cls._fields))


@final
class RowsByPrompt:
    """One batch of rows, and the sums over prompts that do not depend on how they are reconstructed: taken once for many SAEs."""

    def __init__(
        self,
        x: Float[Tensor, "batch d_model"],
        prompt_index: Int[Tensor, " batch"],
        n_prompts: int,
        centre: Float[Tensor, " d_model"],
    ) -> None:
        """Sum what all reconstructions share; the arguments are those of `reconstruction_sums`."""
        self._x, wide = x, x.double()
        self._order = torch.argsort(prompt_index, stable=True)
        wanted = torch.arange(n_prompts, device=x.device, dtype=prompt_index.dtype)
        self._starts = torch.searchsorted(prompt_index[self._order], wanted)
        columns = [torch.ones_like(wide[:, 0]), wide.square().sum(1), wide.sum(1)]
        offset = wide - centre.double()
        self._squared_offset = offset.square().sum(1)
        self._n, self._x2, self._xsum, self._x2c = self._by_prompt(torch.stack([*columns, self._squared_offset], 1)).unbind(1)
        self._xc = self._by_prompt(offset)

    def sums(self, x_hat: Float[Tensor, "batch d_model"], active: Int[Tensor, " batch"] | None = None) -> ReconstructionSums:
        """All sums for one reconstruction; see `reconstruction_sums`."""
        squared_error = (self._x - x_hat).double().square_().sum(1)
        counted = torch.zeros_like(squared_error) if active is None else active.double()
        columns = torch.stack([squared_error, squared_error / self._squared_offset, counted], 1)
        sse, rowwise, l0 = self._by_prompt(columns).unbind(1)
        return ReconstructionSums(self._n, sse, self._x2c, self._xc, self._x2, self._xsum, rowwise, l0)

    def _by_prompt(self, columns: Tensor) -> Tensor:
        """Sum of each prompt's rows in their own order: repeatable to the bit, on a GPU too, where index_add_ is not."""
        return torch.nn.functional.embedding_bag(self._order, columns, self._starts, mode="sum")


def reconstruction_sums(
    x: Float[Tensor, "batch d_model"],
    x_hat: Float[Tensor, "batch d_model"],
    prompt_index: Int[Tensor, " batch"],
    n_prompts: int,
    centre: Float[Tensor, " d_model"],
    active: Int[Tensor, " batch"] | None = None,
) -> ReconstructionSums:
    """The sums of one batch of rows.

    Args:
        x: rows in original units.
        x_hat: their reconstructions in the same units.
        prompt_index: prompt of each row, 0 … n_prompts − 1, in any order.
        n_prompts: prompts of the whole evaluation set.
        centre: c, near the mean of the rows and the same for all batches; it prevents cancellation and drops out of every ratio
            but `nmse_rowwise`.
        active: active latents of each row, if they are to be counted.
    """
    return RowsByPrompt(x, prompt_index, n_prompts, centre).sums(x_hat, active)


Weights = Float[Tensor, "*replicate prompt"] | Int[Tensor, "*replicate prompt"] | None
Result = Float64[Tensor, "*replicate"]


def nmse(sums: ReconstructionSums, weights: Weights = None) -> Result:
    """Σ‖x−x̂‖² / Σ‖x−μ‖², μ one mean per dimension over all (weighted) rows: 0 is perfect, 1 the mean predictor; also called FVU."""
    return _total(sums.sse, weights) / _scatter(sums, weights)


def nmse_pooled(sums: ReconstructionSums, weights: Weights = None) -> Result:
    """Mean squared error over the variance of all scalars pooled, as OhhMoo SAE-RL reports it; 1 is not the mean predictor."""
    elements = _total(sums.n, weights) * sums.xc.shape[-1]
    return _total(sums.sse, weights) / (_total(sums.x2, weights) - _total(sums.xsum, weights).square() / elements)


def nmse_raw(sums: ReconstructionSums, weights: Weights = None) -> Result:
    """Σ‖x−x̂‖² / Σ‖x‖², uncentred."""
    return _total(sums.sse, weights) / _total(sums.x2, weights)


def nmse_rowwise(sums: ReconstructionSums, weights: Weights = None) -> Result:
    """Mean over rows of ‖x−x̂‖²/‖x−c‖² with the fixed centre c of the sums; a row equal to c makes it infinite or undefined."""
    return _total(sums.rowwise, weights) / _total(sums.n, weights)


def nmse_anchored(sums: ReconstructionSums, base: ReconstructionSums, weights: Weights = None) -> Result:
    """Error per row of `sums` over the variance of `base`: a change of variance between the two cannot pass for one of error."""
    return mean_squared_error(sums, weights) / variance(base, weights)


def mean_squared_error(sums: ReconstructionSums, weights: Weights = None) -> Result:
    """Σ‖x−x̂‖²/n: squared error per row, summed over dimensions."""
    return _total(sums.sse, weights) / _total(sums.n, weights)


def variance(sums: ReconstructionSums, weights: Weights = None) -> Result:
    """Σ‖x−μ‖²/n: variance per row, summed over dimensions."""
    return _scatter(sums, weights) / _total(sums.n, weights)


def mean_l0(sums: ReconstructionSums, weights: Weights = None) -> Result:
    """Active latents per row."""
    return _total(sums.l0, weights) / _total(sums.n, weights)


def _total(values: Tensor, weights: Tensor | None) -> Tensor:
    """Weighted sum over prompts (axis 0 of `values`)."""
    return values.sum(0) if weights is None else weights.to(values) @ values


def _scatter(sums: ReconstructionSums, weights: Tensor | None) -> Tensor:
    """Σ‖x−μ‖² by the shift theorem: Σ‖x−c‖² − ‖Σ(x−c)‖²/n."""
    return _total(sums.x2c, weights) - _total(sums.xc, weights).square().sum(-1) / _total(sums.n, weights)
