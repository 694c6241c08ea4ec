"""The tables of what is measured over stages that read the same rows; written like those of `drift_columns`.

Notation: x_0 and x_t a row at the earlier and at the later stage of a pair, Δ = x_t − x_0, μ means over rows.
"""

from typing import NamedTuple


class Representation(NamedTuple):
    """One measure of one pair of stages at one layer, on kept rows of the split `test`: how alike they are before any SAE."""

    run: str
    """RL run."""
    text: str
    """Text set, one that all stages read alike."""
    layer: int
    """Layer."""
    stage: str
    """The later stage."""
    update: int
    """PPO updates behind it."""
    against: str
    """The earlier stage: base, or the one before."""
    kl: float | None
    """KL(π_t‖π_0) of the later stage to base in nats per response, from the policy's manifest; null where unknown."""
    measure: str
    """Which: see docs/drift.md."""
    at: float | None
    """Share of the variance of a subspace, or number of decoder rows of a span; null for measures of neither."""
    kind: str | None
    """Kind of the base SAE whose dictionary it is about; null for other measures."""
    seed: int | None
    """Seed of that SAE."""
    value: float | None
    """The measure; null where it is not defined, such as a share of no change."""
    low: float | None
    """Lower end of its interval; null for measures without."""
    high: float | None
    """Upper end of its interval."""
    rows: int
    """Rows that count."""
    prompts: int
    """Problems with at least one such row."""
