"""Sums over the rows of each prompt, and totals of such sums over prompts that count several times or not at all."""

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

Weights = Float[Tensor, "*replicate prompt"] | Int[Tensor, "*replicate prompt"] | None
"""How often each prompt counts, one row per bootstrap replicate; None: every prompt once."""


def sums_by_prompt(
    values: Float[Tensor, "row column"], prompt_index: Int[Tensor, " row"], n_prompts: int
) -> Float64[Tensor, "prompt column"]:
    """Sum of the rows of each prompt, in their own order: repeatable to the bit on a GPU too, where scattered sums are not."""
    order = torch.argsort(prompt_index, stable=True)
    starts = torch.searchsorted(prompt_index[order], torch.arange(n_prompts, device=values.device, dtype=prompt_index.dtype))
    return torch.nn.functional.embedding_bag(order, values.double(), starts, mode="sum")


def total(values: Float64[Tensor, "prompt ..."], weights: Weights = None) -> Float64[Tensor, "..."]:
    """Weighted sum over prompts, [*replicate, *column]."""
    return values.sum(0) if weights is None else torch.tensordot(weights.to(values), values, dims=1)
