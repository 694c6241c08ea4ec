"""BatchTopK SAEs: latents compete within a batch while training, and meet one threshold afterwards."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_core.config.part import Part
from sae_core.config.sae import BatchTopKConfig, MatryoshkaConfig, SAEConfig
from sae_core.kernels.codes import Codes
from sae_core.kernels.selection import above
from sae_core.kernels.sparse import decode
from sae_core.models.sae import SAE, Normalised

UNSET = -1.0
"""A threshold that no batch has moved yet; every positive latent then passes, as in dictionary_learning."""


class BatchSelectedSAE(SAE):
    """f = max(z, 0) where z > threshold, 0 elsewhere, with z = (x' − pre) W_encᵀ + b_enc.

    With `decoder_norm`, z · ‖W_dec row‖ takes the place of z, and f is divided by that norm when it is decoded.
    """

    config: BatchTopKConfig | MatryoshkaConfig
    part: Part[BatchTopKConfig | MatryoshkaConfig]
    b_enc: nn.Parameter
    threshold: Tensor
    """[]: running mean of the smallest activation that was kept in a batch."""

    @classmethod
    def own_shapes(cls, config: SAEConfig) -> dict[str, tuple[int, ...]]:
        return {"b_enc": (config.d_sae,), "threshold": ()}

    @classmethod
    def fixed(cls) -> tuple[str, ...]:
        return ("scale", "threshold")

    def unit_of(self, decoders: Float[Tensor, "latent d_model"]) -> Float[Tensor, " latent"] | None:
        return torch.linalg.vector_norm(decoders, dim=1) if self.config.decoder_norm else None

    def select(self, centred: Float[Tensor, "batch d_model"]) -> Codes:
        z, unit = torch.addmm(self.b_enc, centred, self.W_enc.T), self.code_unit()
        return above(z if unit is None else z * unit, self.threshold.clamp_min(0).expand(self.config.d_sae))


@final
class BatchTopKSAE(BatchSelectedSAE):
    """Selection over the batch: the batch · k largest max(z, 0) of a batch are kept while training.

    Source: Bussmann et al. 2024, "BatchTopK Sparse Autoencoders", eq. 5 and 6.
    """

    config: BatchTopKConfig


@final
class MatryoshkaSAE(BatchSelectedSAE):
    """BatchTopK whose first m latents reconstruct by themselves, too, for each m of `widths`.

    Source: Bussmann et al. 2025, "Learning Multi-Level Features with Matryoshka Sparse Autoencoders", eq. 2 to 4.
    """

    config: MatryoshkaConfig
    part: Part[MatryoshkaConfig]

    def reconstructions(self, x: Float[Tensor, "batch d_model"]) -> list[Float[Tensor, "batch d_model"]]:
        """The reconstruction in original units from the first latents alone, one for each width."""
        codes, unit, scaled = self.encode(x), self.code_unit(), self.normalised(x)
        values = codes.values if unit is None else codes.values / unit[codes.latents]
        return [self._from_first(codes._replace(values=values), width, scaled) for width in self.config.widths]

    def _from_first(self, codes: Codes, width: int, scaled: Normalised) -> Tensor:
        first = codes._replace(values=codes.values.masked_fill(codes.latents >= width, 0))
        return scaled.undone(decode(first, self.W_dec) + self.b_dec)
