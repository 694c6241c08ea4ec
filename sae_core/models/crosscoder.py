"""Crosscoders: latents that several stages share, each stage with decoder rows of its own."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.config.crosscoder import CrosscoderConfig
from sae_core.config.part import Part
from sae_core.config.sae import SAEConfig
from sae_core.models.batchtopk import UNSET, BatchSelectedSAE

SMALLEST_NORM = 1e-12
"""What codes are divided by at least, so that a latent of no decoder stays finite."""


@final
class Crosscoder(BatchSelectedSAE):
    """f = max(z, 0) where z Σ_t‖d_i^t‖ > threshold, with z = Σ_t (x'_t − pre_t) W_encᵗᵀ + b_enc; x̂'_t = f W_decᵗ + b_decᵗ.

    W_enc and W_dec hold the rows of all stages side by side, [d_sae, stages · width]; d_i^t is stage t's part of row i of W_dec.
    While training, the batch · k largest max(z, 0) Σ_t‖d_i^t‖ are kept: what a code is in all stages together. Decoder norms are
    free: how they spread over stages is what a crosscoder tells. `scale` is a vector that holds the number of its stage at every
    place. As in every SAE with `code_unit`, codes are given as f Σ_t‖d_i^t‖.

    Source: Minder et al. 2025, arXiv 2504.02922 (BatchTopK crosscoder).
    """

    config: CrosscoderConfig  # type: ignore[assignment]  # a kind of its own beside those that are selected over a batch
    part: Part[CrosscoderConfig]  # type: ignore[assignment]  # see above

    @classmethod
    def shapes(cls, config: SAEConfig) -> dict[str, tuple[int, ...]]:
        return super().shapes(config) | {"scale": (config.d_model,)}

    def code_unit(self) -> Float[Tensor, " d_sae"]:
        return self.unit_of(self.W_dec.detach())

    def unit_of(self, decoders: Float[Tensor, "latent d_model"]) -> Float[Tensor, " latent"]:
        by_stage = decoders.view(len(decoders), self.config.stages, self.config.width)
        return torch.linalg.vector_norm(by_stage, dim=2).sum(1).clamp_min(SMALLEST_NORM)

    def stage_norms(self) -> Float[Tensor, "d_sae stage"]:
        """‖d_i^t‖, in the units of each stage's normalised rows."""
        return torch.linalg.vector_norm(self.decoders(), dim=2)

    def decoders(self) -> Float[Tensor, "d_sae stage width"]:
        """d_i^t."""
        return self.W_dec.detach().view(self.config.d_sae, self.config.stages, self.config.width)


def initial_crosscoder(config: CrosscoderConfig, rows: Float[Tensor, "row d_model"], seed: int) -> Crosscoder:
    """A fresh crosscoder: each latent one random unit direction, the same in the encoder and decoder of all stages.

    Stages begin alike so that a latent that differs between them was moved there by the rows. Encoder rows are 1/T of the
    decoder's: where stages agree, a row is first reconstructed as by tied unit vectors.

    Args:
        config: its shape.
        rows: first joint rows, in original units.
        seed: seed of the directions.

    Raises:
        ValueError: the rows of a stage are all 0, or not finite.

    Source: the crosscoders of dictionary_learning as Minder et al. 2025 train them (equal initial weights).
    """
    by_stage = rows.double().view(len(rows), config.stages, config.width)
    sizes = by_stage.square().mean((0, 2)).sqrt()
    if not (torch.isfinite(sizes).all() and (sizes > 0).all()):
        raise ValueError(
            "Rows that start a crosscoder must be finite and not all 0 in any stage; their root mean squares are "
            f"{sizes.tolist()}. Check the stores."
        )
    draw = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(config.d_sae, config.width, generator=draw), dim=1)
    tensors = {name: torch.zeros(shape) for name, shape in Crosscoder.shapes(config).items()}
    tensors |= {"W_dec": directions.repeat(1, config.stages), "W_enc": directions.repeat(1, config.stages) / config.stages}
    tensors |= {"scale": sizes.float().repeat_interleave(config.width), "threshold": torch.tensor(UNSET)}
    mean = (rows / tensors["scale"]).double().mean(0).float()
    tensors |= {name: mean for name in ("b_pre", "b_dec") if name in tensors}
    return Crosscoder(config, tensors)
