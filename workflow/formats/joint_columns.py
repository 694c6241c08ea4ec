"""The tables of what is measured over stages that read the same rows; written like those of `drift_columns`.

Notation: x_0 and x_t a row at the earlier and at the later stage of a pair, Δ = x_t − x_0, μ means over rows.
"""

from typing import NamedTuple

from workflow.formats.drift_columns import Estimate


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


class CrosscoderStage(NamedTuple):
    """One later stage beside base in one crosscoder, on held-out rows of problems it was not trained on.

    d_i^0 and d_i^t are the decoder rows of latent i at base and at the stage, each in units of that stage's normalised rows. Counts
    are of alive latents; their intervals draw problems, while the crosscoder stays as it is.
    """

    run: str
    """RL run."""
    text: str
    """Text set, one that all stages read alike."""
    layer: int
    """Layer."""
    seed: int
    """Seed of the crosscoder."""
    stage: str
    """The later stage t."""
    update: int
    """PPO updates behind it."""
    kl: float | None
    """KL(π_t‖π_0) in nats per response, from the policy's manifest; null where unknown."""
    d_sae: int
    """Latents."""
    k: int
    """Latents kept per row in training, on average."""
    train_rows: int
    """Rows it was trained on."""
    rows: int
    """Rows it is measured on."""
    prompts: int
    """Problems of these rows."""
    l0: float
    """Mean active latents per joint row."""
    nmse_base: Estimate
    """Σ‖x_0−x̂_0‖²/Σ‖x_0−μ_0‖² of the rows of base."""
    nmse: Estimate
    """The same of the rows of the stage."""
    alive: Estimate
    """Latents that fired on ≥ drift.min_firings rows of ≥ drift.min_prompts problems."""
    shared: Estimate
    """Neither new nor gone, cos(d^0, d^t) ≥ drift.crosscoder.rotated_cosine."""
    rotated: Estimate
    """Neither new nor gone, the cosine below that."""
    new: Estimate
    """Relative norm ½(1 + (‖d^t‖−‖d^0‖)/max) above 1 − drift.crosscoder.exclusive."""
    gone: Estimate
    """Relative norm below drift.crosscoder.exclusive."""
    new_confirmed: Estimate
    """New, and neither shrunk nor decoupled."""
    gone_confirmed: Estimate
    """Gone, and neither shrunk nor decoupled."""
    shrunk: Estimate
    """New or gone, but ν_ε ≥ drift.crosscoder.error_ratio: the other stage's error still holds it (complete shrinkage)."""
    decoupled: Estimate
    """New or gone, but ν_r ≥ drift.crosscoder.reconstruction_ratio: other latents carry it there (latent decoupling)."""
    changed_share: Estimate
    """(rotated + new_confirmed + gone_confirmed) / alive."""


class CrosscoderLatent(NamedTuple):
    """One latent of one crosscoder, at one later stage beside base; `latents.parquet` of one measurement."""

    stage: str
    """The later stage."""
    latent: int
    """Index of the latent, the same at all stages."""
    alive: bool
    """It fired on ≥ drift.min_firings rows of ≥ drift.min_prompts problems."""
    firing_rate: float
    """#{joint rows with f ≠ 0} / rows."""
    norm_base: float
    """‖d^0‖ / Σ_t‖d^t‖."""
    norm: float
    """‖d^t‖ / Σ_t‖d^t‖."""
    relative_norm: float
    """½(1 + (‖d^t‖−‖d^0‖)/max)."""
    cosine: float
    """cos(d^0, d^t)."""
    in_error: float | None
    """ν_ε; null where it never fired."""
    in_reconstruction: float | None
    """ν_r; null where it never fired."""
    of: str
    """`shared`, `rotated`, `new` or `gone`."""
    confirmed: bool
    """New or gone, and neither shrunk nor decoupled."""
