"""Section `drift`: how change between stages is measured and with which uncertainty."""

import math
from typing import Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from workflow.config.joint import CrosscoderSettings, RepresentationConfig
from workflow.config.section import Section


class DriftConfig(Section):
    replicates: PositiveInt = 2000
    """Bootstrap replicates over prompts, at least 2000 in published numbers."""

    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Coverage of every interval."""

    seed: int = 0
    """Seed of the bootstrap and of sign flips."""

    batch_rows: PositiveInt = 4096
    """Rows encoded together; it changes memory, not results."""

    min_firings: PositiveInt = 20
    """A latent counts as alive on a store when it fired this often on rows of…"""

    min_prompts: PositiveInt = 10
    """…at least this many prompts."""

    max_sink_share: float = Field(default=0.2, gt=0, le=1)
    """A store of which the row filter drops a larger share is refused: what is left is no longer what the policy computed."""

    max_l0_ratio: float = Field(default=1.25, ge=1)
    """Chains whose SAEs of one stage differ by more than this factor in l0 are not compared: more latents reconstruct better."""

    keep_firings: NonNegativeInt | None = None
    """A latent that was alive at the stage before stays so with this many firings; null: half of min_firings…"""

    keep_prompts: NonNegativeInt | None = None
    """…on rows of at least this many prompts; null: half of min_prompts. One near the border shall not die and rise in turn."""

    fdr: float = Field(default=0.05, gt=0, lt=1)
    """False discovery rate of every list of single latents."""

    stability_margin: float = Field(default=0.2, gt=0, lt=1)
    """A firing rate may be called stable if it lies within ± this share of that on rows of base."""

    sign_flips: PositiveInt | None = None
    """Sign flips that confirm listed latents; null: ten times as many as can confirm the last of the list at this fdr."""

    density_bins: PositiveInt = 10
    """Groups of latents that fire about as often, in which the turning of directions is compared with the null chain."""

    exact_matching_limit: NonNegativeInt = 30_000
    """With more alive latents than this, latents are matched greedily and the table says so: exact takes 8 · latents² bytes."""

    ancestor_cosine: float = Field(default=0.7, gt=0, lt=1)
    """Latents of two SAEs whose directions have a larger cosine than this are relatives."""

    min_unexplained: float = Field(default=0.5, ge=0, le=1)
    """Least share of a latent's contribution that the other SAE does not explain, for it to count as born or died."""

    lineage_nearest: PositiveInt = 8
    """Nearest latents that are considered as relatives of each latent."""

    lineage_correlation: float = Field(default=0.4, gt=-1, lt=1)
    """Least correlation of activations on paired rows between relatives."""

    persist_cosine: float = Field(default=0.9, gt=0, le=1)
    """Least cosine at which a latent with one relative persists; below it, it rotated."""

    representation: RepresentationConfig = RepresentationConfig()
    """How alike the rows of two stages are, before any SAE."""

    crosscoder: CrosscoderSettings = CrosscoderSettings()
    """One dictionary for all stages at once, trained on paired rows: the check on what the chains of SAEs say."""

    @property
    def to_stay_alive(self) -> tuple[int, int]:
        """Firings and prompts that keep a latent alive."""
        firings = self.min_firings // 2 if self.keep_firings is None else self.keep_firings
        return firings, self.min_prompts // 2 if self.keep_prompts is None else self.keep_prompts

    @model_validator(mode="after")
    def _intervals_have_ends(self) -> Self:
        least = math.ceil(round(2 / (1 - self.confidence), 6))  # one replicate beyond each end
        if self.replicates < least:
            raise ValueError(
                f"drift.replicates must be at least {least}, for intervals of confidence {self.confidence:g}; got "
                f"{self.replicates}. Raise it, to 2000 for numbers that are published."
            )
        return self

    @model_validator(mode="after")
    def _staying_is_no_harder(self) -> Self:
        firings, prompts = self.to_stay_alive
        if firings > self.min_firings or prompts > self.min_prompts:
            raise ValueError(
                f"drift.keep_firings and drift.keep_prompts must be at most drift.min_firings = {self.min_firings} and "
                f"drift.min_prompts = {self.min_prompts}; got {firings} and {prompts}. Lower them."
            )
        return self

    @model_validator(mode="after")
    def _persisting_latents_are_relatives(self) -> Self:
        if self.persist_cosine < self.ancestor_cosine:
            raise ValueError(
                f"drift.persist_cosine must be at least drift.ancestor_cosine = {self.ancestor_cosine}; got {self.persist_cosine}. "
                "Raise it."
            )
        return self
