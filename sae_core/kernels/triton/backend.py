"""The backend for CUDA: kernels in Triton, dense products by cuBLAS."""

from typing import final

import torch
import triton
from jaxtyping import Bool, Float
from torch import Tensor
from triton import knobs

from sae_core.kernels.backend import Backend, Gradient, Precision, Reconstruction
from sae_core.kernels.codes import ByLatent, Codes
from sae_core.kernels.gradient import AdamStep, Matrix
from sae_core.kernels.triton.adam import adam_
from sae_core.kernels.triton.products import dense_gradient
from sae_core.kernels.triton.reconstruction import reconstruct
from sae_core.kernels.triton.rounding import like, round_into
from sae_core.kernels.triton.row_gradient import in_pieces, shape_of, squared_norm
from sae_core.kernels.triton.topk import SelectingMatrix, topk
from sae_core.kernels.triton.transpose import by_latent

DENSE_FROM = 0.02
"""Share of active codes from which products of dense codes should take less time than gathers: arithmetic for an H200.
12 · batch · d_model · d_sae operations at 790e12 per second tie with two readings of 4 · batch · k · d_model bytes of the L2 cache,
at 6e12 per second, at 0.011; the traffic of dense codes and gradients moves the tie to 0.014–0.02 (benchmarks/GPU.md)."""
WIDEST = 16384
"""Largest d_model: a program holds a row of weights, moments and gradient in its registers."""


@final
class TritonBackend(Backend):
    """Gathers without atomics, Adam fused with the gradient, candidates by bfloat16 products and the decision in float32.

    Nothing is read back from the device and every shape follows from those of the arguments, so an update can be captured in a CUDA
    graph; `AdamStep.lr`, `count` and `shrink` may be numbers on the device, which a replay reads anew.
    """

    name = "triton"

    def __init__(self, device: torch.device) -> None:
        """Use a CUDA device, or a CPU under Triton's interpreter.

        Raises:
            ValueError: the device is neither, is not the current one, or is older than bfloat16 tensor cores.
        """
        self.dense_from = DENSE_FROM
        if device.type == "cpu" and knobs.runtime.interpret:
            self.detail = f"triton {triton.__version__}, interpreted on a CPU"
            return
        if device.type != "cuda":
            raise ValueError(f"The triton backend must run on a CUDA device; got {device}. Choose the backend torch or native.")
        if device.index not in (None, torch.cuda.current_device()):
            raise ValueError(
                f"The device of the triton backend must be the current one, cuda:{torch.cuda.current_device()}; got {device}. "
                "Call torch.cuda.set_device first."
            )
        if torch.cuda.get_device_capability(device) < (8, 0):
            raise ValueError(
                f"The triton backend must have a GPU of compute capability 8.0 or newer; got {torch.cuda.get_device_name(device)}. "
                "Choose the backend torch for it."
            )
        self.detail = f"triton {triton.__version__}, {torch.cuda.get_device_name(device)}"

    def matrix(self, weights: Float[Tensor, "d_sae d_model"], selects: bool) -> Matrix:
        return self._matrix(weights, torch.zeros_like(weights), torch.zeros_like(weights), selects)

    def encoder(self, weights: Float[Tensor, "d_sae d_model"]) -> Matrix:
        return self._matrix(weights, weights.new_empty(0), weights.new_empty(0), selects=True)

    def _matrix(self, weights: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, selects: bool) -> Matrix:
        if weights.shape[1] > WIDEST:
            raise ValueError(
                f"d_model must be at most {WIDEST} with the triton backend; got {weights.shape[1]}. Choose the backend torch."
            )
        assert weights.is_contiguous(), "latents are contiguous vectors"
        rounded = like(weights) if selects else None
        found = SelectingMatrix(weights, exp_avg, exp_avg_sq, rounded.copies if rounded else None, rounded)
        self.refresh(found)
        return found

    def refresh(self, matrix: Matrix) -> None:
        assert isinstance(matrix, SelectingMatrix), "made by this backend"
        if matrix.rounded is not None:
            round_into(matrix.rounded, matrix.weights)

    def topk(
        self,
        centred: Float[Tensor, "row d_model"],
        encoder: Matrix,
        b_enc: Float[Tensor, " d_sae"],
        k: int,
        absolute: bool,
        precision: Precision,
    ) -> Codes:
        assert isinstance(encoder, SelectingMatrix), "made by this backend"
        return topk(centred.contiguous(), encoder, b_enc, k, absolute, precision, dense=k >= DENSE_FROM * len(encoder.weights))

    def transpose(self, codes: Codes, d_sae: int) -> ByLatent:
        return by_latent(codes, d_sae)

    def reconstruct(
        self,
        codes: Codes,
        entries: ByLatent,
        W_dec: Float[Tensor, "d_sae d_model"],
        b_dec: Float[Tensor, " d_model"],
        target: Float[Tensor, "row d_model"],
    ) -> Reconstruction:
        return reconstruct(codes, entries, W_dec, b_dec, target.contiguous())

    def prepared(self, gradient: Gradient) -> Gradient:
        """Few entries stay entries, whose sums are cheaper to repeat than to write out and read; of many a matrix is made."""
        if isinstance(gradient, Tensor):
            return gradient.contiguous()
        codes = len(gradient.rows) * shape_of(gradient)[0]
        return in_pieces(gradient) if len(gradient.coefficients) < DENSE_FROM * codes else dense_gradient(gradient)

    def squared_norm(self, gradient: Gradient, needless: Bool[Tensor, ""] | None = None) -> Float[Tensor, ""]:
        """Σ of squares of a prepared gradient, or 0 where `needless`, a number on the device, is true: a bound has settled it."""
        return squared_norm(gradient, needless)

    def adam_(self, matrix: Matrix, gradient: Gradient, step: AdamStep) -> None:
        assert isinstance(matrix, SelectingMatrix), "made by this backend"
        adam_(matrix, matrix.rounded, gradient, step)
