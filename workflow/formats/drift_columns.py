"""The tables of the phase drift: one class per table, one field per column, its formula in the string under it.

Those about single latents stand in `latent_columns`, what may be said in `claim_columns`.

Notation: N[i,j] = nmse of SAE S_i on rows X_j; S chain `real`, U `null`, C `cold`, R `repeat`; 0 = base,
t = a stage; f activations of latents.
A field of type `Estimate` is three columns: its own name and the ends `_low` and `_high` of its bootstrap interval by prompt.
A type with `| None` is a column with nulls. str → string, int → int64, float → float64, bool → bool.
"""

from typing import NamedTuple, get_args, get_type_hints

import pyarrow as pa

from workflow.formats.latent_columns import Dictionary, Latent, Lineage


class Estimate(NamedTuple):
    """A number with the ends of its percentile interval over prompts."""

    value: float
    low: float
    high: float


class Quality(NamedTuple):
    """One SAE on rows of the kind its chain trains on (X_t; in `null` X_0), twice: sinks dropped and included."""

    run: str
    """RL run."""
    text: str
    """Text set of the evaluated rows."""
    kind: str
    """Kind of the SAE."""
    chain: str
    """Chain of the SAE; base stands once, under `real`."""
    seed: int
    """SAE seed."""
    stage: str
    """Stage of the SAE."""
    update: int
    """PPO updates behind the stage."""
    layer: int
    """Layer."""
    sinks: str
    """`dropped`: rows that the row filter keeps, the primary line; `included`: all rows."""
    store_stage: str
    """Stage of the evaluated rows."""
    rows: int
    """n, rows of the split `test` that count."""
    prompts: int
    """Problems with at least one such row."""
    dropped_share: float
    """1 − n / all rows of the store's split `test`."""
    nmse: Estimate
    """Σ‖x−x̂‖² / Σ‖x−μ‖², μ one mean per dimension over these rows."""
    nmse_anchored: float
    """(Σ‖x−x̂‖²/n) / (Σ‖x−μ₀‖²/n₀ on the rows of base)."""
    nmse_pooled: float
    """Σ‖x−x̂‖² / (Σ‖x‖² − (Σ elements of x)²/(n·d_model)): the convention of OhhMoo SAE-RL."""
    nmse_raw: float
    """Σ‖x−x̂‖² / Σ‖x‖²."""
    nmse_rowwise: float
    """Mean over rows of ‖x−x̂‖²/‖x−c‖², c the centre of the measurement, near the mean of the rows of base."""
    l0: float
    """Mean active latents per row."""
    dead_share: float | None
    """Share of latents that are not alive on these rows (`Latent.alive`); null with sinks included."""
    delta_nmse: Estimate
    """nmse − N[0,0], paired by prompt."""
    kl: float | None
    """KL(π_t‖π_0) in nats per response, from the policy's manifest; null where unknown."""
    delta_per_update: float | None
    """delta_nmse / update; null where refused."""
    delta_per_kl: float | None
    """delta_nmse / kl; null where refused."""
    rate_refused: str | None
    """Why the two rates are null; null where they stand."""


class Transfer(NamedTuple):
    """One SAE on one store: N[i,j] for the chain `real`, and control chains on base and on their own stage."""

    run: str
    """RL run."""
    text: str
    """Text set of the evaluated rows."""
    kind: str
    """Kind of the SAE."""
    chain: str
    """Chain of the SAE; base stands under `real`."""
    seed: int
    """SAE seed."""
    layer: int
    """Layer."""
    sinks: str
    """`dropped` or `included`."""
    sae_stage: str
    """i, stage of the SAE."""
    store_stage: str
    """j, stage of the evaluated rows."""
    nmse: float
    """N[i,j] = Σ‖x−S_i(x)‖² / Σ‖x−μ_j‖² over X_j."""
    low: float
    """Lower end of the interval of nmse."""
    high: float
    """Upper end of the interval of nmse."""
    nmse_anchored: float
    """Σ‖x−S_i(x)‖²/n_j over X_j, divided by Σ‖x−μ₀‖²/n₀ over X_0."""
    l0: float
    """Mean active latents per row of S_i on X_j."""
    excess: Estimate
    """nmse − N[j,j] of the chain `real`, paired by prompt."""


class Decomposition(NamedTuple):
    """What the change of a chain's nmse is made of, per stage behind base; all differences are paired by prompt."""

    run: str
    """RL run."""
    text: str
    """Text set of the evaluated rows."""
    kind: str
    """Kind of the SAE."""
    seed: int
    """SAE seed."""
    stage: str
    """t."""
    update: int
    """PPO updates behind the stage."""
    layer: int
    """Layer."""
    sinks: str
    """`dropped` or `included`."""
    delta: Estimate
    """N[t,t] − N[0,0] = shift + refit = shift + null_refit + adaptation."""
    shift: Estimate
    """N[0,t] − N[0,0]: dictionary frozen, rows moved."""
    refit: Estimate
    """N[t,t] − N[0,t]: rows fixed, dictionary moved."""
    null_refit: Estimate | None
    """nmse(U_t on X_0) − N[0,0]: what as many updates on base rows do; null without the chain `null`."""
    adaptation: Estimate | None
    """refit − null_refit; null without the chain `null`."""
    contrast: Estimate | None
    """N[t,t] − nmse(U_t on X_t): equal training, only the rows differ; null without the chain `null`."""
    repeat_floor: Estimate | None
    """|nmse(R_t on X_t) − N[t,t]|: what one hop more on the same rows does at this stage; null without the chain `repeat`."""
    repeat_shift_floor: Estimate | None
    """|(nmse(R_t on X_t) − nmse(R_t on X_0)) − (N[t,t] − N[t,0])|: how much a shift differs between two dictionaries that differ in
    that hop alone; null without the chain `repeat`."""
    cold_gap: Estimate | None
    """nmse(C_t on X_t) − N[t,t]: below 0 where a fresh SAE with as many updates does better; null without the chain `cold`."""
    anchored_delta: Estimate
    """delta with every error divided by the variance of base (nmse_anchored)."""
    anchored_shift: Estimate
    """shift, anchored."""
    anchored_refit: Estimate
    """refit, anchored."""
    anchored_null_refit: Estimate | None
    """null_refit, anchored (the same number, X_0 being base)."""
    anchored_adaptation: Estimate | None
    """adaptation, anchored."""
    anchored_contrast: Estimate | None
    """contrast, anchored."""
    anchored_repeat_floor: Estimate | None
    """repeat_floor, anchored."""
    anchored_repeat_shift_floor: Estimate | None
    """repeat_shift_floor, anchored."""
    anchored_cold_gap: Estimate | None
    """cold_gap, anchored."""
    comparison_refused: str | None
    """Which control chains are told of by nulls here, and why: their SAEs differ from that of `real` in l0 by more than the factor
    drift.max_l0_ratio, each on rows of the kind its chain trains on; null where all chains are compared."""
    sink_rows: float | None
    """Share of the rows of base that the row filter drops: sinks."""
    sink_variance: float | None
    """Their share of Σ‖x−μ‖² over all rows of base; null where there are none."""
    sink_error: float | None
    """Their share of Σ‖x−S_0(x)‖²; null where there are none."""
    sink_nmse: float | None
    """Σ‖x−S_0(x)‖² / Σ‖x−μ_s‖² over them alone, μ_s their own mean; infinite where they are all equal, null where there are
    none."""


TABLES: dict[str, type] = {
    "quality": Quality, "transfer": Transfer, "decomposition": Decomposition, "latents": Latent, "dictionary": Dictionary,
    "lineage": Lineage,
}  # fmt: skip
"""The tables of the study by name."""

PLAIN = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


def schema(table: type) -> pa.Schema:
    """Arrow columns of a table class."""
    fields: list[pa.Field] = []
    for name, hint in get_type_hints(table).items():
        options = get_args(hint) or (hint,)
        nullable = type(None) in options
        if Estimate in options:
            fields += [pa.field(f"{name}{end}", pa.float64(), nullable=nullable) for end in ("", "_low", "_high")]
        else:
            fields.append(pa.field(name, PLAIN[options[0]], nullable=nullable))
    return pa.schema(fields)
