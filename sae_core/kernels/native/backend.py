"""The backend for CPUs: compiled loops around torch's dense products."""

import ctypes
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.kernels.backend import Backend, Gradient, Precision, Reconstruction
from sae_core.kernels.codes import ByLatent, Codes, equally_many
from sae_core.kernels.gradient import AdamStep, Matrix
from sae_core.kernels.native.arguments import GradientTensors, StepNumbers
from sae_core.kernels.native.candidates import CandidateSearch, NativeMatrix, Selecting, int8_products_are_exact, serves
from sae_core.kernels.native.library import HAS_INT8, NAMES, SHARES_THREADS, Level, load

PRODUCT_BYTES = 1 << 26
"""Largest part of the pre-activations of a batch that is held at a time."""

DENSE_FROM = 0.3
"""Nanoseconds of a float32 product per code of a whole matrix over those of an entry, with AVX-512: 78 over 250."""


@final
class NativeBackend(Backend):
    """Sparse operations, selection and Adam in C++, on the threads that torch uses; the product with W_enc by torch.

    Where the CPU multiplies int8, `topk` in `fp32` finds candidates in such a product, multiplied again in float32 (candidates.py).

    Results do not depend on the number of threads, but where they are those of torch's own products.
    """

    name = "native"

    def __init__(self, level: Level | None = None, int8: bool | None = None) -> None:
        """Load the library.

        Args:
            level: instruction set to use instead of the best that this CPU has.
            int8: whether candidates come from a product of int8; by default where the CPU has instructions for it.

        Raises:
            ValueError: no library can be used.
        """
        library = load(level)
        if isinstance(library, str):
            raise ValueError(f"The native backend needs a compiled library; found none that fits: {library}.")
        self._call = library.functions
        fast = bool(library.features & HAS_INT8) and int8_products_are_exact()
        self._search = CandidateSearch(library.functions, self._buffer) if (fast if int8 is None else int8) else None
        self._buffers: dict[torch.dtype, Tensor] = {}
        candidates = "products in float32" if self._search is None else "candidates in int8"
        threads, whose = torch.get_num_threads(), "" if library.features & SHARES_THREADS else " of its own"
        self.detail = f"{NAMES[library.level]}, {candidates}, {threads} thread{'s' if threads > 1 else ''}{whose}"
        self.dense_from = DENSE_FROM

    def matrix(self, weights: Float[Tensor, "d_sae d_model"], selects: bool) -> Matrix:
        self._in_large_pages(weights)
        return NativeMatrix(weights, *(self._in_large_pages(torch.empty_like(weights)).zero_() for _ in range(2)))

    def encoder(self, weights: Float[Tensor, "d_sae d_model"]) -> Matrix:
        self._in_large_pages(weights)
        return NativeMatrix(weights, weights.new_empty(0), weights.new_empty(0))

    def refresh(self, matrix: Matrix) -> None:
        assert isinstance(matrix, NativeMatrix), "made here"
        matrix.along = None
        if matrix.shadow is not None:
            self._call.sae_round(matrix.weights, *matrix.weights.shape, matrix.shadow, torch.get_num_threads())
        if matrix.copy is not None and self._search is not None:
            self._search.copied(matrix.weights, into=matrix.copy)

    @torch.no_grad()
    def topk(
        self,
        centred: Float[Tensor, "row d_model"],
        encoder: Matrix,
        b_enc: Float[Tensor, " d_sae"],
        k: int,
        absolute: bool,
        precision: Precision,
    ) -> Codes:
        batch, d_sae = len(centred), len(encoder.weights)
        latents, values = torch.empty(batch, k, dtype=torch.int64), centred.new_empty(batch, k)
        block = max(256, PRODUCT_BYTES // (4 * d_sae))
        for first in range(0, batch, block):
            part = slice(first, first + block)
            self._topk_of_part(centred[part].contiguous(), encoder, b_enc, absolute, precision, latents[part], values[part])
        return equally_many(latents, values)

    def _topk_of_part(
        self,
        centred: Tensor,
        encoder: Matrix,
        b_enc: Tensor,
        absolute: bool,
        precision: Precision,
        latents: Tensor,
        values: Tensor,
    ) -> None:
        (batch, k), d_sae = latents.shape, len(encoder.weights)
        assert isinstance(encoder, NativeMatrix), "made here"
        shape = (batch, d_sae, k, absolute, latents, values, torch.get_num_threads())
        if precision == "bf16":
            if encoder.shadow is None:
                encoder.shadow = self._in_large_pages(torch.empty_like(encoder.weights, dtype=torch.bfloat16))
                self._call.sae_round(encoder.weights, *encoder.weights.shape, encoder.shadow, torch.get_num_threads())
            z = torch.mm(centred.bfloat16(), encoder.shadow.T, out=self._buffer(batch, d_sae, torch.bfloat16))
            self._call.sae_topk_bf16(z, b_enc, *shape)
        elif self._search is None or not serves(d_sae, centred.shape[1], k):
            z = torch.mm(centred, encoder.weights.T, out=self._buffer(batch, d_sae, torch.float32))
            self._call.sae_topk(z, b_enc, *shape)
        else:
            self._search.topk(Selecting(centred, encoder, b_enc, absolute, latents, values))

    def above(self, z: Float[Tensor, "row d_sae"], threshold: Float[Tensor, " d_sae"] | Float[Tensor, ""]) -> Codes:
        (batch, d_sae), threads = z.shape, torch.get_num_threads()
        z, threshold = z.contiguous(), threshold.expand(d_sae).contiguous()
        offsets = torch.zeros(batch + 1, dtype=torch.int64)
        self._call.sae_count_above(z, threshold, batch, d_sae, offsets[1:], threads)
        offsets = offsets.cumsum(0)
        total = int(offsets[-1])
        latents, values = torch.empty(total, dtype=torch.int64), z.new_empty(total)
        self._call.sae_above(z, threshold, batch, d_sae, offsets, latents, values, threads)
        return Codes(offsets, latents, values)

    def batch_topk(self, z: Float[Tensor, "row d_sae"], total: int) -> Codes:
        assert 1 <= total <= z.numel(), "as many as there are, at most"
        offsets, latents, values = (
            torch.empty(len(z) + 1, dtype=torch.int64),
            torch.empty(total, dtype=torch.int64),
            z.new_empty(total),
        )
        self._call.sae_batch_topk(z.contiguous(), *z.shape, total, offsets, latents, values, torch.get_num_threads())
        return Codes(offsets, latents, values)

    def transpose(self, codes: Codes, d_sae: int) -> ByLatent:
        order, rows, latents = (torch.empty_like(codes.latents) for _ in range(3))
        offsets = codes.latents.new_empty(d_sae + 1)
        self._call.sae_transpose(codes.offsets, codes.latents, codes.batch, d_sae, offsets, order, rows, latents)
        return ByLatent(offsets, order, rows, latents)

    def reconstruct(
        self,
        codes: Codes,
        entries: ByLatent,
        W_dec: Float[Tensor, "d_sae d_model"],
        b_dec: Float[Tensor, " d_model"],
        target: Float[Tensor, "row d_model"],
    ) -> Reconstruction:
        target = target.contiguous()
        error, dots = torch.empty_like(target), torch.empty_like(codes.values)
        self._call.sae_reconstruct(
            *(codes.offsets, codes.latents, codes.values, entries.order, W_dec, b_dec, target),
            *(codes.batch, target.shape[1], error, dots, torch.get_num_threads()),
        )
        return Reconstruction(error, dots)

    def prepared(self, gradient: Gradient) -> Gradient:
        return gradient

    def squared_norm(self, gradient: Gradient) -> Float[Tensor, ""]:
        if isinstance(gradient, Tensor):
            return torch.dot(gradient.view(-1), gradient.view(-1))
        d_sae, d_model = len(gradient.entries.offsets) - 1, gradient.rows.shape[1]
        found = ctypes.c_double()
        self._call.sae_squared_norm(GradientTensors.of(gradient), d_sae, d_model, ctypes.byref(found), torch.get_num_threads())
        return torch.tensor(found.value, dtype=torch.float32)

    def adam_(self, matrix: Matrix, gradient: Gradient, step: AdamStep) -> None:
        lr, count, shrink = float(step.lr), int(step.count), float(step.shrink)
        size, root = lr / (1 - step.beta1**count), (1 - step.beta2**count) ** -0.5
        numbers = StepNumbers(size, root, step.beta1, step.beta2, step.eps, shrink, step.unit_rows, step.project)
        assert isinstance(matrix, NativeMatrix), "made here"
        copy = None if matrix.copy is None else ctypes.byref(matrix.copy.structure)
        self._call.sae_adam(
            *(GradientTensors.of(gradient), numbers, matrix.weights, matrix.exp_avg, matrix.exp_avg_sq, matrix.shadow, copy),
            *(*matrix.weights.shape, torch.get_num_threads()),
        )
        matrix.along = None

    def _buffer(self, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
        """Memory that is kept between calls: new pages take as long as what is written into them."""
        kept = self._buffers.get(dtype)
        if kept is None or kept.numel() < rows * columns:
            kept = self._buffers[dtype] = self._in_large_pages(torch.empty(rows * columns, dtype=dtype))
        return kept[: rows * columns].view(rows, columns)

    def _in_large_pages(self, tensor: Tensor) -> Tensor:
        self._call.sae_large_pages(tensor.data_ptr(), tensor.nbytes)
        return tensor
