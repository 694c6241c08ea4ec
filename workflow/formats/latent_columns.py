"""The tables about single latents of the phase drift: one class per table, one field per column, its formula under it.

Notation as in `drift_columns`. The frozen view of stage t is one SAE that never saw its rows, on X_0 and on X_t: S_0, in rows of
the chain `null` U_t. r̄ is the mean over prompts of a prompt's firings over its rows; tests and intervals are paired by prompt,
their lists of q-values run over the tested latents of one SAE. All rows have sinks dropped.
"""

from typing import NamedTuple


class Latent(NamedTuple):
    """One latent of one SAE, on kept rows of the split `test` of the stage that its chain trains on (X_t; in `null` X_0)."""

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
    latent: int
    """Index of the latent, kept along a chain."""
    decoder_cosine: float
    """cos(d_i of this SAE, d_i of S_0); 1 at base."""
    encoder_cosine: float
    """cos(encoder row i of this SAE, that of S_0)."""
    firing_rate: float
    """#{rows with f_i ≠ 0 under this SAE} / n."""
    frozen_rate: float
    """The same in the frozen view on X_t."""
    frozen_rate_base: float
    """The same in the frozen view on X_0."""
    frozen_mean: float | None
    """Mean of f_i over the rows where it is active, frozen view on X_t, in units of the scaled rows x'; null where it never is."""
    frozen_mean_base: float | None
    """The same on X_0."""
    alive: bool
    """Under this SAE it fired on ≥ drift.min_firings rows of ≥ drift.min_prompts problems, or was alive at the stage before, was
    not re-initialised since, and fired on ≥ drift.keep_firings rows of ≥ drift.keep_prompts problems."""
    frozen_alive: bool
    """Frozen view on X_t: it fired on ≥ drift.min_firings rows of ≥ drift.min_prompts problems."""
    frozen_alive_base: bool
    """The same on X_0."""
    reinitialised: bool
    """It was re-initialised since base: its cosines compare unrelated directions."""
    cosine_excess: float | None
    """(1 − decoder_cosine) − mean of (1 − decoder_cosine) over latents of U_t whose firing rate under S_0 on X_0 lies in the same
    of drift.density_bins bins; both sides alive at base and not re-initialised; null at base, in control chains, without `null`."""
    cosine_p: float | None
    """(1 + #{those latents of U_t that turned at least as far}) / (1 + their number)."""
    encoder_excess: float | None
    """cosine_excess of the encoder rows."""
    encoder_p: float | None
    """cosine_p of the encoder rows."""
    rate_tested: bool | None
    """Frozen view: it fired on ≥ drift.min_firings rows of ≥ drift.min_prompts problems on X_0 and X_t together; null at base."""
    rate_log_ratio: float | None
    """ln(r̄_t/r̄_0) in the frozen view; ±∞ where it fired on one of both alone; null where not tested, as all of the following."""
    rate_log_ratio_low: float | None
    """Lower end of its interval by the delta method over prompts; null where it is infinite."""
    rate_log_ratio_high: float | None
    """Upper end."""
    rate_p: float | None
    """Two-sided paired t-test over prompts of r_t − r_0."""
    rate_q: float | None
    """rate_p adjusted after Benjamini & Hochberg 1995."""
    rate_q_dependent: float | None
    """rate_p adjusted after Benjamini & Yekutieli 2001, under any dependence between latents."""
    rate_flip_p: float | None
    """Sign-flip p over prompts, (1 + #{flips at least as extreme}) / (1 + flips); null where rate_q > drift.fdr."""
    rate_confirmed: bool | None
    """rate_flip_p ≤ drift.fdr · listed / tested; false where rate_q > drift.fdr."""
    stable_p: float | None
    """p of the claim |r̄_t − r̄_0| < drift.stability_margin · r̄_0: the larger of two one-sided paired t-tests (Schuirmann 1987)."""
    stable_q: float | None
    """stable_p adjusted after Benjamini & Hochberg 1995."""
    threshold_rate: float | None
    """frozen_rate under one threshold for all latents, that with which S_0 is as dense on rows of base as by its own rule; kinds
    that have thresholds: their own rule; null in `null`."""
    threshold_rate_base: float | None
    """The same on X_0."""
    threshold_log_ratio: float | None
    """rate_log_ratio under the threshold."""
    threshold_q: float | None
    """rate_q under the threshold."""
    magnitude_ratio: float | None
    """frozen_mean / frozen_mean_base; null unless it fired often enough, as for alive, on X_0 and on X_t each."""
    magnitude_ratio_low: float | None
    """Lower end of its interval by linearisation over prompts (Cochran 1977, ch. 6)."""
    magnitude_ratio_high: float | None
    """Upper end."""
    magnitude_q: float | None
    """p of magnitude_ratio = 1, adjusted after Benjamini & Hochberg 1995."""
    ancestor_cosine: float | None
    """Largest cos(d_i of this SAE, d_j of S_0) over the j alive at base; null at base."""
    unexplained: float | None
    """ν = β_e/(β_e + β_r) with β = Σf⟨·,d⟩/(‖d‖²Σf²) on error e and reconstruction r of S_0, f and d of this latent on its own rows
    (latent scaling, Minder et al. 2025): 1 if S_0 reconstructs nothing of what it contributes; null if it never fires."""
    born_appeared: bool | None
    """(1) Alive, and at base not alive or no relative of itself: decoder_cosine ≤ drift.ancestor_cosine."""
    born_unrelated: bool | None
    """(2) ancestor_cosine ≤ drift.ancestor_cosine."""
    born_own: bool | None
    """(3) Not re-initialised."""
    born_unexplained: bool | None
    """(4) unexplained ≥ drift.min_unexplained."""
    born: bool | None
    """All of (1)–(4); (5), the count of the null chain, is subtracted in the table `dictionary`."""
    descendant_cosine: float | None
    """Largest cos(d_i of S_0, d_j of this SAE) over its alive j; null at base."""
    ancestor_unexplained: float | None
    """ν of latent i of S_0 on X_0 with error and reconstruction by the alive latents of this SAE; null if it never fires."""
    died_vanished: bool | None
    """(1) Latent i of S_0 was alive, and is not alive now or no relative of itself."""
    died_unrelated: bool | None
    """(2) descendant_cosine ≤ drift.ancestor_cosine."""
    died_own: bool | None
    """(3) Not re-initialised; of one that was nothing is said."""
    died_unexplained: bool | None
    """(4) ancestor_unexplained ≥ drift.min_unexplained."""
    died: bool | None
    """All of (1)–(4)."""


class Event(NamedTuple):
    """What became of some latents between S_0 and an SAE behind base."""

    run: str
    """RL run."""
    text: str
    """Text set of the rows on which latents were compared."""
    kind: str
    """Kind of the SAEs."""
    chain: str
    """Chain of the later SAE."""
    seed: int
    """SAE seed."""
    stage: str
    """Stage of the later SAE."""
    update: int
    """PPO updates behind the stage."""
    layer: int
    """Layer."""
    event: str
    """`persist`: one to one, cosine ≥ drift.persist_cosine; `rotate`: one to one below it; `split`: one to several; `merge`:
    several to one; `born`, `die`: by all conditions of the table `latents`, without a relative."""
    parents: str
    """Latents of S_0, with spaces between them; empty of one that was born."""
    children: str
    """Latents of the later SAE; empty of one that died."""
    cosine: float | None
    """Least cosine of decoder directions between a parent and a child."""
    correlation: float | None
    """Least correlation of their activations over paired rows: S_0 on X_0 and S_t on X_t where both hold the same tokens, else and
    in `null` both on the rows that the later SAE's chain trains on."""


class Lineage(NamedTuple):
    """How many events of one kind there were in the chain `real`, and beyond the null chain."""

    run: str
    """RL run."""
    text: str
    """Text set."""
    kind: str
    """Kind of the SAEs."""
    seed: int
    """SAE seed."""
    stage: str
    """Stage of the later SAE."""
    update: int
    """PPO updates behind the stage."""
    layer: int
    """Layer."""
    event: str
    """As in the lineage of one measurement, and `unplaced`: alive later latents that are not re-initialised and in no event."""
    count: int
    """Events in the chain `real`."""
    null_count: int | None
    """Events in the chain `null` at the same stage; null without it."""
    excess: int | None
    """count − null_count; it may be negative."""


class Dictionary(NamedTuple):
    """One SAE as a whole: how many of its latents changed, on the rows of the table `latents`."""

    run: str
    """RL run."""
    text: str
    """Text set."""
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
    latents: int
    """d_sae."""
    alive: int
    """Latents alive."""
    reinitialised: int
    """Latents re-initialised since base."""
    effective: float
    """2^H, H = −Σ p log₂ p in bits, p a latent's share of all firings on its own rows (Hill 1973); the null chain is its band."""
    effective_low: float
    """Lower end of its interval, H linearised over prompts."""
    effective_high: float
    """Upper end."""
    rates_tested: int | None = None
    """Latents with rate_tested; null at base, as all of the following."""
    rates_changed: int | None = None
    """Latents with rate_q ≤ drift.fdr."""
    rates_changed_dependent: int | None = None
    """Latents with rate_q_dependent ≤ drift.fdr."""
    rates_confirmed: int | None = None
    """Latents with rate_confirmed."""
    sign_flips: int | None = None
    """Flips behind rate_flip_p; 0 if nothing was listed."""
    rates_stable: int | None = None
    """Latents with stable_q ≤ drift.fdr."""
    thresholds_changed: int | None = None
    """Latents with threshold_q ≤ drift.fdr; null in `null`."""
    rates_changed_both: int | None = None
    """Latents with rate_q and threshold_q ≤ drift.fdr and the same sign; null in `null`."""
    magnitudes_changed: int | None = None
    """Latents with magnitude_q ≤ drift.fdr."""
    turned: int | None = None
    """Latents whose cosine_p, adjusted after Benjamini & Hochberg 1995, is ≤ drift.fdr; null where cosine_p is."""
    mmcs: float | None = None
    """Mean over alive latents of ancestor_cosine (Sharkey et al. 2022)."""
    aligned_cosine: float | None = None
    """Mean decoder_cosine over latents alive here and at base, not re-initialised."""
    matched_cosine: float | None = None
    """MCC: their mean cosine after matching them one to one, the sum of signed cosines being largest (Hungarian method)."""
    renaming_gap: float | None = None
    """matched_cosine − aligned_cosine: drift of direction that is a change of names."""
    matching_exact: bool | None = None
    """False: more than drift.exact_matching_limit latents, matched greedily."""
    real_mmcs: float | None = None
    """Of a control chain: mean over its alive latents of their largest cosine with one alive in S_t, the SAE of `real` at this
    stage; null for `real`, as the next three."""
    real_mmcs_back: float | None = None
    """Mean over alive latents of S_t of their largest cosine with one alive here."""
    real_matched_cosine: float | None = None
    """Mean cosine of alive latents of both matched one to one, re-initialised ones included, the sum of signed cosines largest."""
    real_matched: int | None = None
    """Pairs of this matching: as many as the side with fewer alive latents has."""
    born_appeared: int | None = None
    """Latents with condition (1) of a birth."""
    born_unrelated: int | None = None
    """Those of them with (2)."""
    born_own: int | None = None
    """Those of them with (3)."""
    born: int | None = None
    """Those of them with (4)."""
    born_null: int | None = None
    """(5) born of the null chain at this stage; null in control chains and without `null`."""
    born_excess: int | None = None
    """born − born_null."""
    died_vanished: int | None = None
    """Latents with condition (1) of a death."""
    died_unrelated: int | None = None
    """Those of them with (2)."""
    died_own: int | None = None
    """Those of them with (3)."""
    died: int | None = None
    """Those of them with (4)."""
    died_null: int | None = None
    """(5) died of the null chain at this stage."""
    died_excess: int | None = None
    """died − died_null."""
    unplaced: int | None = None
    """Alive latents, not re-initialised, in no event of the lineage."""
    unplaced_base: int | None = None
    """Latents of S_0, alive at base, in no event of the lineage."""
