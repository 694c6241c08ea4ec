"""The loss of each kind on one batch, and its gradients at the codes, written out by hand.

With B rows of width d, e = x̂' − x' and N = B · d, every kind has the loss ‖e‖² / N (`Found.loss`) and adds what its docstring says.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.config.training import TrainingConfig
from sae_core.kernels.backend import Backend
from sae_core.kernels.codes import Codes
from sae_core.kernels.gradient import Matrix
from sae_core.kernels.sparse import decode, entry_gradients
from sae_core.kernels.torch_backend import pre_activations
from sae_core.models.batchtopk import BatchTopKSAE, MatryoshkaSAE
from sae_core.models.crosscoder import Crosscoder
from sae_core.models.elementwise import GatedSAE, JumpReLUSAE, ReluSAE
from sae_core.models.sae import SAE
from sae_core.models.topk import TopKSAE
from sae_core.training.merging import merged_batch_topk, merged_topk
from sae_core.training.parallel import Parallel
from sae_core.training.support import DenseSupport, SparseSupport, Support, support_above


class Scene(NamedTuple):
    """One batch before an SAE, or a process' share of the rows and latents of both."""

    target: Float[Tensor, "row d_model"]
    """x'."""
    centred: Float[Tensor, "row d_model"]
    """x' − pre."""
    encoder: Matrix
    config: TrainingConfig
    sparsity_coef: float
    """λ at this update."""
    backend: Backend
    parallel: Parallel

    @property
    def batch(self) -> int:
        """B: rows of all replicas."""
        return len(self.target) * self.parallel.rows.size

    @property
    def elements(self) -> int:
        """N."""
        return self.target.numel() * self.parallel.rows.size

    @property
    def to_gradient(self) -> float:
        """2/N: from e to the gradient of the loss in x̂'."""
        return 2 / self.elements


class Found(NamedTuple):
    """What a kind found in the rows of this process; everything per code is like `support.z`."""

    support: Support
    codes: Tensor
    """f, with which decoder rows are multiplied."""
    dots: Tensor
    """Gradient of ‖e‖²/N in f."""
    code_gradients: Tensor
    """Gradient of the whole loss in u = (x' − pre) W_encᵀ."""
    error_gradient: Float[Tensor, "row d_model"]
    """Gradient in the part of x̂' that each entry's decoder row is a summand of."""
    error: Float[Tensor, "batch d_model"]
    """e."""
    loss: Float[Tensor, ""]
    """‖e‖²/N, e of these rows and N of all."""
    b_dec: Float[Tensor, " d_model"]
    """Gradient of b_dec as a bias of the decoder."""
    vectors: dict[str, Tensor]
    """Gradients of the parameters of the encoder but for W_enc and the pre-bias, [d_sae] each."""


def topk_objective(sae: TopKSAE, scene: Scene) -> Found:
    """Nothing is added. Latents that were kept but lie behind the ReLU get no gradient."""
    config, training, absolute = sae.config, scene.config, sae.config.keep == "absolute"
    kept = scene.backend.topk(scene.centred, scene.encoder, sae.b_enc, config.k, absolute, training.precision)
    kept = merged_topk(kept, sae.part.whole.k, absolute, scene.parallel.latents)
    support: Support
    if sae.part.whole.k > scene.backend.dense_from * sae.part.whole.d_sae:
        mask = torch.zeros(kept.batch, config.d_sae, dtype=torch.bool, device=kept.values.device)
        mask[kept.rows(), kept.latents] = True
        support = DenseSupport(kept.dense(config.d_sae), mask, training.precision)
    else:
        support = SparseSupport(kept, config.d_sae, scene.backend)
    if config.keep == "relu":
        codes = support.z.relu()
        return _reconstructed(sae, scene, support, codes, codes > 0)
    return _reconstructed(sae, scene, support, support.z, None)


def batchtopk_objective(sae: BatchTopKSAE, scene: Scene) -> Found:
    """Nothing is added; the B · k largest positive z of the batch are kept."""
    z = pre_activations(scene.centred, sae.W_enc, sae.b_enc, scene.config.precision)
    kept = merged_batch_topk(z, scene.batch * sae.part.whole.k, scene.parallel.both, scene.backend)
    support = SparseSupport(kept, sae.config.d_sae, scene.backend)
    codes = support.z.relu()
    return _reconstructed(sae, scene, support, codes, codes > 0)


def crosscoder_objective(sae: Crosscoder, scene: Scene) -> Found:
    """Nothing is added: the mean over stages of each stage's ‖e_t‖²/N_t. Kept are the B · k largest max(z, 0) Σ_t‖d_i^t‖.

    No gradient flows through what is kept; AuxK ranks dead latents by z alone.

    Source: Minder et al. 2025, arXiv 2504.02922, there a sum over stages, which is T times as much.
    """
    z = pre_activations(scene.centred, sae.W_enc, sae.b_enc, scene.config.precision)
    kept = merged_batch_topk(z * sae.code_unit(), scene.batch * sae.part.whole.k, scene.parallel.both, scene.backend)
    kept = kept._replace(values=z[kept.rows(), kept.latents])
    support = SparseSupport(kept, sae.config.d_sae, scene.backend)
    codes = support.z.relu()
    return _reconstructed(sae, scene, support, codes, codes > 0)


def relu_objective(sae: ReluSAE, scene: Scene) -> Found:
    """+ λ (1/B) Σ f; where decoder rows are free, each code counts times the norm of its row.

    Source: Bricken et al. 2023; Anthropic's update of April 2024 (norms).
    """
    z = pre_activations(scene.centred, sae.W_enc, sae.b_enc, scene.config.precision)
    support = support_above(z, z.new_zeros(sae.config.d_sae), scene.backend, scene.config.precision, scene.parallel.rows)
    found = _reconstructed(sae, scene, support, support.z.relu(), support.z > 0)
    price = scene.sparsity_coef / scene.batch
    paid = price if scene.config.unit_decoder else price * support.spread(torch.linalg.vector_norm(sae.W_dec, dim=1))
    gradients = found.code_gradients + paid * (support.z > 0)
    return found._replace(code_gradients=gradients, vectors={"b_enc": support.sums(gradients)})


def jumprelu_objective(sae: JumpReLUSAE, scene: Scene) -> Found:
    """+ λ L0, or with `target_l0` + λ (L0/target_l0 − 1)²; L0 is the mean of active latents per row.

    θ gets gradients from codes within ε/2 of it alone, ε = `bandwidth`: of f in θ −θ/ε, of L0 in θ −1/ε.

    Source: Rajamanoharan et al. 2024b, eq. 11 and 12 with the rectangular kernel, and its appendix on training to a target L0.
    """
    z = pre_activations(scene.centred, sae.W_enc, sae.b_enc, scene.config.precision)
    threshold, width, target = sae.threshold.detach(), scene.config.bandwidth, scene.config.target_l0
    support = support_above(z, threshold - width / 2, scene.backend, scene.config.precision, scene.parallel.rows)
    edge = support.spread(threshold)
    active = (support.z > edge) & (support.z > 0)
    found = _reconstructed(sae, scene, support, support.z * active, active)
    l0 = scene.parallel.both.sum_(support.sums(active.to(z.dtype)).sum()) / scene.batch
    price = scene.sparsity_coef * (1.0 if target is None else 2 * (l0 / target - 1) / target) / scene.batch
    near = ((support.z - edge).abs() < width / 2).to(z.dtype) / width
    moved = support.sums(-near * (edge * found.dots + price))
    return found._replace(vectors=found.vectors | {"threshold": moved})


def gated_objective(sae: GatedSAE, scene: Scene) -> Found:
    """+ λ (1/B) Σ g + ‖x̂'(g) − x'‖²/N, where g = max(u + b_gate, 0) is decoded by W_dec and b_dec held fixed.

    Source: Rajamanoharan et al. 2024a, eq. 8.
    """
    gate = pre_activations(scene.centred, sae.W_enc, sae.b_gate, scene.config.precision)
    support = support_above(gate, gate.new_zeros(sae.config.d_sae), scene.backend, scene.config.precision, scene.parallel.rows)
    open_gate, stretch = support.z > 0, support.spread(sae.r_mag.detach().exp())
    u = support.z - support.spread(sae.b_gate)
    magnitude = u * stretch + support.spread(sae.b_mag)
    codes = magnitude.relu() * open_gate
    found = _reconstructed(sae, scene, support, codes, codes > 0)
    by_gate = support.reconstruct(support.z.relu(), sae.W_dec, sae.b_dec, scene.target, scene.parallel.latents).dots
    by_gate = (by_gate * scene.to_gradient + scene.sparsity_coef / scene.batch) * open_gate
    by_magnitude = found.code_gradients
    vectors = {
        "b_gate": support.sums(by_gate),
        "b_mag": support.sums(by_magnitude),
        "r_mag": support.sums(by_magnitude * u * stretch),
    }
    return found._replace(code_gradients=by_magnitude * stretch + by_gate, vectors=vectors)


def matryoshka_objective(sae: MatryoshkaSAE, scene: Scene) -> Found:
    """The mean of ‖x̂'_m − x'‖²/N over widths m, x̂'_m from the first m latents, takes the place of ‖e‖²/N, which is that of all.

    Entries are kept as in BatchTopK. Each (row, stretch between two widths) is a bag: x̂'_m is a running sum over the bags of a row,
    and the gradient of a bag the sum of those of all widths that hold it.

    Source: Bussmann et al. 2025, eq. 3, as a mean over widths instead of a sum.
    """
    z = pre_activations(scene.centred, sae.W_enc, sae.b_enc, scene.config.precision)
    part, widths = sae.part, torch.tensor(sae.part.whole.widths, device=z.device)
    kept = merged_batch_topk(z, scene.batch * part.whole.k, scene.parallel.both, scene.backend)
    stretches = len(widths)
    bag = kept.rows() * stretches + torch.searchsorted(widths, kept.latents + part.first, right=True)
    offsets = torch.searchsorted(bag, torch.arange(len(z) * stretches + 1, device=z.device))
    support = SparseSupport(Codes(offsets, kept.latents, kept.values), sae.config.d_sae, scene.backend, stretches)
    codes = support.z.relu()
    stretched = scene.parallel.latents.sum_(decode(support.in_rows(codes), sae.W_dec.detach()))
    error = stretched.view(len(z), stretches, -1).cumsum(1).add_(sae.b_dec).sub_(scene.target.unsqueeze(1))
    each = error * (scene.to_gradient / stretches)
    gradient = each.flip(1).cumsum(1).flip(1).reshape(len(z) * stretches, -1)
    dots = entry_gradients(gradient, sae.W_dec.detach(), support.entries)
    through = dots * (codes > 0)
    whole, vectors = error[:, -1], {"b_enc": support.sums(through)}
    loss = whole.square().mean() / scene.parallel.rows.size
    return Found(support, codes, dots, through, gradient, whole, loss, each.sum((0, 1)), vectors)


def _reconstructed(sae: SAE, scene: Scene, support: Support, codes: Tensor, through: Tensor | None) -> Found:
    """The squared error and its gradients.

    Args:
        through: where a code follows its pre-activation with slope 1, elsewhere with 0; None: everywhere.
    """
    error, dots = support.reconstruct(codes, sae.W_dec.detach(), sae.b_dec.detach(), scene.target, scene.parallel.latents)
    loss = torch.dot(error.view(-1), error.view(-1)) / scene.elements
    dots = dots * scene.to_gradient
    gradients = dots if through is None else dots * through
    gradient = error * scene.to_gradient
    vectors = {"b_enc": support.sums(gradients)}
    return Found(support, codes, dots, gradients, gradient, error, loss, gradient.sum(0), vectors)
