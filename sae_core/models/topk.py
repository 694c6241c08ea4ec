"""TopK SAEs: as many latents per row as asked for."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_core.config.part import Part
from sae_core.config.sae import SAEConfig, TopKConfig
from sae_core.kernels.codes import Codes, equally_many
from sae_core.kernels.sparse import topk_rows
from sae_core.models.sae import SAE


@final
class TopKSAE(SAE):
    """z = (x' − pre) W_encᵀ + b_enc; f = z on k latents of the row, 0 elsewhere; x̂' = f W_dec + b_dec.

    `keep` decides which k and what becomes of them: `relu`: the k largest z, then max(z, 0); `signed`: the k largest z; `absolute`:
    the k largest |z|. With `decoder_norm`, z · ‖W_dec row‖ takes the place of z, and f is divided by that norm when it is decoded.

    Source: Gao et al. 2024, eq. 1 (`relu`); OhhMoo SAE-RL (`signed`, with a pre-bias that is not added back); SAELens (`absolute`).
    """

    config: TopKConfig
    part: Part[TopKConfig]
    b_enc: nn.Parameter

    @classmethod
    def own_shapes(cls, config: SAEConfig) -> dict[str, tuple[int, ...]]:
        return {"b_enc": (config.d_sae,)}

    def unit_of(self, decoders: Float[Tensor, "latent d_model"]) -> Float[Tensor, " latent"] | None:
        return torch.linalg.vector_norm(decoders, dim=1) if self.config.decoder_norm else None

    def scores(self, centred: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch d_sae"]:
        """z of centred rows."""
        z, unit = torch.addmm(self.b_enc, centred, self.W_enc.T), self.code_unit()
        return z if unit is None else z * unit

    def select(self, centred: Float[Tensor, "batch d_model"]) -> Codes:
        z = self.scores(centred)
        _, latents = topk_rows(z.abs() if self.config.keep == "absolute" else z, self.config.k)
        values = z.gather(1, latents)
        return equally_many(latents, values.relu() if self.config.keep == "relu" else values)
