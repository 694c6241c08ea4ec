"""Rows made of known directions, and how well an SAE finds them again."""

from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional


class Recovery(NamedTuple):
    """What an SAE makes of rows it was not trained on."""

    mcc: float
    """Mean |cosine| between planted directions and decoder rows, each matched to one of the other so that the sum is largest."""
    nmse: float
    """Σ‖x−x̂‖²/Σ‖x−μ‖²."""
    l0: float
    """Active latents per row."""


class Planted:
    """Sums of k of many unit directions that fire by a power law (exponent 0.8), amplitudes 0.5 to 1.5, offset 0.3, noise 0.05.

    All is divided by one number so that elements have mean square 1.
    """

    def __init__(self, d_model: int, directions: int, k: int, seed: int) -> None:
        self.k, draw = k, torch.Generator().manual_seed(seed)
        self.directions = functional.normalize(torch.randn(directions, d_model, generator=draw), dim=1)
        self.rate = 1 / torch.arange(1, directions + 1).float() ** 0.8
        self.draw, self.size = draw, 1.0
        self.size = float(self.rows(8192).square().mean().sqrt())

    def rows(self, count: int) -> Tensor:
        """The next rows of the stream."""
        latents = torch.multinomial(self.rate, count * self.k, replacement=True, generator=self.draw).view(count, self.k)
        amplitudes = torch.rand(latents.shape, generator=self.draw) + 0.5
        found = functional.embedding_bag(latents, self.directions, per_sample_weights=amplitudes, mode="sum")
        return (found + 0.3 + 0.05 * torch.randn(found.shape, generator=self.draw)) / self.size


def mean_max_cosine(W_dec: Tensor, directions: Tensor) -> float:
    """MCC: mean |cosine| of an optimal one-to-one matching.

    Source: arXiv 2505.20254; SAELens computes its own the same way.
    """
    cosines = (functional.normalize(W_dec, dim=1) @ functional.normalize(directions, dim=1).T).abs()
    rows, columns = linear_sum_assignment(cosines.numpy(), maximize=True)
    return float(cosines[rows, columns].mean())


def recovery_of(W_dec: Tensor, codes: Tensor, x_hat: Tensor, x: Tensor, directions: Tensor) -> Recovery:
    """How well an SAE with these decoder rows, codes and reconstructions of held-out rows does."""
    error, spread = (x - x_hat).square().sum(), (x - x.mean(0)).square().sum()
    return Recovery(mean_max_cosine(W_dec, directions), float(error / spread), float((codes != 0).sum(1).float().mean()))
