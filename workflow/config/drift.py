"""Section `drift`: how change between stages is measured and with which uncertainty."""

from pydantic import Field, PositiveInt

from workflow.config.section import Section


class DriftConfig(Section):
    replicates: PositiveInt = 2000
    """Bootstrap replicates over prompts, at least 2000 in published numbers."""

    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Coverage of every interval."""

    seed: int = 0
    """Seed of the bootstrap."""

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
