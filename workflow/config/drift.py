"""Section `drift`: how change between stages is measured and with which uncertainty."""

from pydantic import Field, PositiveInt

from workflow.config.joint import CrosscoderSettings, RepresentationConfig
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

    representation: RepresentationConfig = RepresentationConfig()
    """How alike the rows of two stages are, before any SAE."""

    crosscoder: CrosscoderSettings = CrosscoderSettings()
    """One dictionary for all stages at once, trained on paired rows: the check on what the chains of SAEs say."""
