"""The backend for CPUs: compiled loops around torch's dense products."""

import ctypes
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.kernels.backend import Backend, Gradient, Precision, Reconstruction
from sae_core.kernels.codes import ByLatent, Codes, equally_many
from sae_core.kernels.gradient import AdamStep, Matrix
from sae_core.kernels.native.arguments import FactorTensors, GradientTensors, StepNumbers
from sae_core.kernels.native.library import HAS_BF16, NAMES, TOO_MANY, Level, load

PRODUCT_BYTES = 1 << 26
"""Largest part of the pre-activations of a batch that is held at a time."""

DENSE_FROM = 0.3
"""Nanoseconds of a float32 product per code of a whole matrix over those of an entry, with AVX-512: 78 over 250."""

FEW = 4
"""Candidates are multiplied again as long as they are less than one in so many: a product in float32 is then slower still."""


@dataclass(kw_only=True)
class RoundedMatrix(Matrix):
    """Weights whose copy in bfloat16 comes with norms, by which errors of products with it are bounded."""

    sizes: Tensor
    """[d_sae]: at least ‖row‖."""
    errors: Tensor
    """[d_sae]: at least ‖row − its copy‖."""


@final
class NativeBackend(Backend):
    """Sparse operations, selection and Adam in C++, on as many threads as torch uses; the product with W_enc by torch.

    Where the CPU multiplies bfloat16, `topk` in `fp32` finds candidates in a bfloat16 product: every latent that could be among the
    k largest in float32, by a bound that always holds (Cauchy-Schwarz on what rounding takes away; sums in float32, as oneDNN makes
    them). It multiplies those again in float32, and keeps k of them.

    Results do not depend on the number of threads, but where they are those of torch's own products.
    """

    name = "native"

    def __init__(self, level: Level | None = None, bf16: bool | None = None) -> None:
        """Load the library.

        Args:
            level: instruction set to use instead of the best that this CPU has.
            bf16: whether candidates come from a product of bfloat16; by default where the CPU has instructions for it.

        Raises:
            ValueError: no library can be used.
        """
        library = load(level)
        if isinstance(library, str):
            raise ValueError(f"The native backend needs a compiled library; found none that fits: {library}.")
        self._call = library.functions
        fast = bool(library.features & HAS_BF16) and torch.backends.mkldnn.is_available()
        self._rounds = fast if bf16 is None else bf16
        self._buffers: dict[torch.dtype, Tensor] = {}
        candidates = "candidates in bfloat16" if self._rounds else "products in float32"
        threads = torch.get_num_threads()
        self.detail = f"{NAMES[library.level]}, {candidates}, {threads} thread{'s' if threads > 1 else ''}"
        self.dense_from = DENSE_FROM

    def matrix(self, weights: Float[Tensor, "d_sae d_model"], selects: bool) -> Matrix:
        self._in_large_pages(weights)
        moments = [self._in_large_pages(torch.empty_like(weights)).zero_() for _ in range(2)]
        return self._rounded(weights, *moments) if selects and self._rounds else Matrix(weights, *moments)

    def encoder(self, weights: Float[Tensor, "d_sae d_model"]) -> Matrix:
        self._in_large_pages(weights)
        moments = weights.new_empty(0), weights.new_empty(0)
        return self._rounded(weights, *moments) if self._rounds else Matrix(weights, *moments)

    def _rounded(self, weights: Tensor, *moments: Tensor) -> RoundedMatrix:
        shadow = self._in_large_pages(torch.empty_like(weights, dtype=torch.bfloat16))
        sizes, errors = weights.new_empty(2, len(weights))
        matrix = RoundedMatrix(weights, *moments, shadow=shadow, sizes=sizes, errors=errors)
        self.refresh(matrix)
        return matrix

    def refresh(self, matrix: Matrix) -> None:
        if isinstance(matrix, RoundedMatrix):
            weights = matrix.weights
            self._call.sae_round(weights, *weights.shape, matrix.shadow, matrix.sizes, matrix.errors, torch.get_num_threads())

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
        shape = (batch, d_sae, k, absolute, latents, values, torch.get_num_threads())
        if precision == "bf16":
            shadow = encoder.weights.bfloat16() if encoder.shadow is None else encoder.shadow
            z = torch.mm(centred.bfloat16(), shadow.T, out=self._buffer(batch, d_sae, torch.bfloat16))
            self._call.sae_topk_bf16(z, b_enc, *shape)
        elif not isinstance(encoder, RoundedMatrix) or not self._topk_by_candidates(
            centred, encoder, b_enc, absolute, latents, values
        ):
            z = torch.mm(centred, encoder.weights.T, out=self._buffer(batch, d_sae, torch.float32))
            self._call.sae_topk(z, b_enc, *shape)

    def _topk_by_candidates(
        self, centred: Tensor, encoder: RoundedMatrix, b_enc: Tensor, absolute: bool, latents: Tensor, values: Tensor
    ) -> bool:
        """Whether the bounds left few enough candidates that multiplying them again is faster than a float32 product."""
        (batch, k), (d_sae, d_model) = latents.shape, encoder.weights.shape
        limit = batch * d_sae // FEW
        if batch * k > limit:
            return False
        threads = torch.get_num_threads()
        assert encoder.shadow is not None, "made with it"
        rounded, sizes, errors = torch.empty_like(centred, dtype=torch.bfloat16), *centred.new_empty(2, batch)
        self._call.sae_round(centred, batch, d_model, rounded, sizes, errors, threads)
        product = torch.mm(rounded, encoder.shadow.T, out=self._buffer(batch, d_sae, torch.bfloat16))
        x = FactorTensors(rows=centred, sizes=sizes, errors=errors)
        weights = FactorTensors(rows=encoder.weights, sizes=encoder.sizes, errors=encoder.errors)
        status = self._call.sae_topk_certain(
            product, b_enc, x, weights, batch, d_sae, d_model, k, absolute, limit, latents, values, threads
        )
        return status != TOO_MANY

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
        follows = (matrix.shadow, matrix.sizes, matrix.errors) if isinstance(matrix, RoundedMatrix) else (None, None, None)
        self._call.sae_adam(
            *(GradientTensors.of(gradient), numbers, matrix.weights, matrix.exp_avg, matrix.exp_avg_sq, *follows),
            *(*matrix.weights.shape, torch.get_num_threads()),
        )

    def _buffer(self, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
        """Memory that is kept between calls: new pages take as long as what is written into them."""
        kept = self._buffers.get(dtype)
        if kept is None or kept.numel() < rows * columns:
            kept = self._buffers[dtype] = self._in_large_pages(torch.empty(rows * columns, dtype=dtype))
        return kept[: rows * columns].view(rows, columns)

    def _in_large_pages(self, tensor: Tensor) -> Tensor:
        self._call.sae_large_pages(tensor.data_ptr(), tensor.nbytes)
        return tensor
