"""What a crosscoder is: one set of codes for the rows of several stages, a decoder for each stage."""

from dataclasses import dataclass
from typing import final

from sae_core.config.sae import SAEConfig


@final
@dataclass(frozen=True, kw_only=True)
class CrosscoderConfig(SAEConfig):
    """A BatchTopK SAE of joint rows [x_0; …; x_{T−1}], the same position of the same text under T stages side by side.

    Source: Lindsey et al. 2024, "Sparse Crosscoders for Cross-Layer Features and Model Diffing"; selection over the batch as in
    Minder et al. 2025, arXiv 2504.02922, which leaves no price of decoder norms that could shrink one stage's part to nothing.
    """

    stages: int
    """T."""

    k: int
    """Latents kept per joint row on average."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stages < 2:
            raise ValueError(f"A crosscoder must have at least 2 stages; got {self.stages}. Give the rows of more stages.")
        if self.d_model % self.stages:
            raise ValueError(
                f"d_model of a crosscoder must be stages = {self.stages} times the width of a row; got {self.d_model}. "
                "Put the rows of all stages side by side."
            )
        if not 1 <= self.k <= self.d_sae:
            raise ValueError(f"k must be at least 1 and at most d_sae = {self.d_sae}; got {self.k}. Change k or raise d_sae.")
        if self.normalise != "scale":
            raise ValueError(
                f"A crosscoder must normalise by scale, one number per stage; got {self.normalise}. Use normalise='scale'."
            )

    @property
    def width(self) -> int:
        """Width of one stage's row."""
        return self.d_model // self.stages
