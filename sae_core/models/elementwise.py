"""SAEs whose latents are chosen one by one: ReLU, JumpReLU and Gated."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_core.config.sae import GatedConfig, JumpReLUConfig, ReluConfig, SAEConfig
from sae_core.kernels.codes import Codes
from sae_core.kernels.selection import above
from sae_core.models.sae import SAE


@final
class ReluSAE(SAE):
    """f = max(z, 0) with z = (x' − pre) W_encᵀ + b_enc; x̂' = f W_dec + b_dec.

    Source: Bricken et al. 2023, "Towards Monosemanticity".
    """

    config: ReluConfig
    b_enc: nn.Parameter

    @classmethod
    def own_shapes(cls, config: SAEConfig) -> dict[str, tuple[int, ...]]:
        return {"b_enc": (config.d_sae,)}

    def select(self, centred: Float[Tensor, "batch d_model"]) -> Codes:
        return above(torch.addmm(self.b_enc, centred, self.W_enc.T), centred.new_zeros(self.config.d_sae))


@final
class JumpReLUSAE(SAE):
    """f = max(z, 0) where z > θ, 0 elsewhere, with z = (x' − pre) W_encᵀ + b_enc and one θ per latent; x̂' = f W_dec + b_dec.

    Source: Rajamanoharan et al. 2024b, eq. 3 and 4.
    """

    config: JumpReLUConfig
    b_enc: nn.Parameter
    threshold: nn.Parameter

    @classmethod
    def own_shapes(cls, config: SAEConfig) -> dict[str, tuple[int, ...]]:
        return {"b_enc": (config.d_sae,), "threshold": (config.d_sae,)}

    def select(self, centred: Float[Tensor, "batch d_model"]) -> Codes:
        return above(torch.addmm(self.b_enc, centred, self.W_enc.T), self.threshold.detach().clamp_min(0))


@final
class GatedSAE(SAE):
    """f = max(u · exp(r_mag) + b_mag, 0) where u + b_gate > 0, 0 elsewhere, with u = (x' − pre) W_encᵀ; x̂' = f W_dec + b_dec.

    Source: Rajamanoharan et al. 2024a, eq. 6 and 7.
    """

    config: GatedConfig
    b_gate: nn.Parameter
    b_mag: nn.Parameter
    r_mag: nn.Parameter

    @classmethod
    def own_shapes(cls, config: SAEConfig) -> dict[str, tuple[int, ...]]:
        return {"b_gate": (config.d_sae,), "b_mag": (config.d_sae,), "r_mag": (config.d_sae,)}

    def select(self, centred: Float[Tensor, "batch d_model"]) -> Codes:
        open_gates = above(torch.addmm(self.b_gate, centred, self.W_enc.T), centred.new_zeros(self.config.d_sae))
        latents = open_gates.latents
        u = open_gates.values - self.b_gate[latents]
        return open_gates._replace(values=(u * self.r_mag.exp()[latents] + self.b_mag[latents]).relu())
