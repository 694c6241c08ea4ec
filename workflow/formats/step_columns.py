"""The tables of step-level SAEs: one class per table, one field per column, its formula in the string under it.

N(i, j) = Σ nll / Σ tokens over the steps that stage j wrote, rebuilt by the SSAE of stage i from their codes: nats per token of the
step and its end, context given. All are over the problems of the split `test`; intervals are by problem. See `drift_columns` for
`Estimate` and types.
"""

from typing import NamedTuple

from workflow.formats.drift_columns import Estimate


class StepTransfer(NamedTuple):
    """One SSAE on the steps of one stage."""

    run: str
    """RL run."""
    text: str
    """Text set that the steps are of."""
    seed: int
    """SSAE seed."""
    chain: str
    """Chain of the SSAE; base stands under `real`."""
    ssae_stage: str
    """i, stage of the SSAE."""
    stage: str
    """j, stage that wrote the steps; `base` for a text that all stages share."""
    update: int
    """PPO updates behind that stage."""
    prompts: int
    """Problems."""
    steps: int
    """Steps."""
    tokens: int
    """Tokens of steps, ends included."""
    nll: Estimate
    """N(i, j)."""
    nll_mean_code: Estimate
    """N(i, j) with one code for all these steps, their mean code brought to length 1 (mean ablation)."""
    code_gain: Estimate
    """nll_mean_code − nll, paired by problem: nats per token that the codes tell of their steps; 0 where codes say nothing."""
    l1: Estimate
    """Σ L1 norms of codes / steps; codes have the Euclidean length 1."""
    l0: Estimate
    """Σ latents above 0 / steps."""
    excess: Estimate | None
    """N(i, j) − N(j, j) of `real`, paired by problem; null where stage j has no SSAE."""


class StepDecomposition(NamedTuple):
    """The change of N from base to one stage, split as that of nmse is; see `drift_columns.Decomposition`."""

    run: str
    """RL run."""
    text: str
    """Text set."""
    seed: int
    """SSAE seed."""
    stage: str
    """t."""
    update: int
    """PPO updates behind it."""
    prompts: int
    """Problems."""
    delta: Estimate | None
    """N(t, t) − N(0, 0); null where stage t has no SSAE."""
    shift: Estimate
    """N(0, t) − N(0, 0): the SSAE of base on other steps."""
    refit: Estimate | None
    """N(t, t) − N(0, t)."""
    null_refit: Estimate | None
    """N of the SSAE of t in `null` on base, − N(0, 0): as much training on steps of base; null without that chain."""
    adaptation: Estimate | None
    """refit − null_refit."""


class StepLatent(NamedTuple):
    """One latent in the frozen view of one stage: an SSAE that never read steps of stage t, on those of base and of t.

    That SSAE is S_0 in rows of the chain `real`, in rows of `null` the SSAE of t in that chain, which read steps of base alone. A
    latent fires on a step when its value is above 0; r̄ is the mean over problems of a problem's firings over its steps. Notation,
    tests and thresholds are those of `latent_columns.Latent`.
    """

    run: str
    """RL run."""
    text: str
    """Text set that the steps are of; one that every stage wrote its own of."""
    seed: int
    """SSAE seed."""
    chain: str
    """`real` or `null`, as above."""
    stage: str
    """t."""
    update: int
    """PPO updates behind it."""
    latent: int
    """Index of the latent in the code, kept along a chain."""
    prompts: int
    """Problems with steps of base and of t."""
    frozen_rate: float
    """#{steps of t with f_i > 0} / steps."""
    frozen_rate_base: float
    """The same of base."""
    frozen_mean: float | None
    """Mean of f_i over the steps of t where it is active, codes having length 1; null where it never is."""
    frozen_mean_base: float | None
    """The same of base."""
    frozen_alive: bool
    """On steps of t it fired ≥ drift.min_firings times, on steps of ≥ drift.min_prompts problems."""
    frozen_alive_base: bool
    """The same of base."""
    rate_tested: bool
    """It fired as often as for alive on steps of base and t together."""
    rate_log_ratio: float | None
    """ln(r̄_t/r̄_0); ±∞ where it fired on one of both alone; null where not tested, as all of the following."""
    rate_log_ratio_low: float | None
    """Lower end of its interval by the delta method over problems; null where it is infinite."""
    rate_log_ratio_high: float | None
    """Upper end."""
    rate_p: float | None
    """Two-sided paired t-test over problems of r_t − r_0."""
    rate_q: float | None
    """rate_p adjusted after Benjamini & Hochberg 1995, over the tested latents of this SSAE."""
    rate_q_dependent: float | None
    """rate_p adjusted after Benjamini & Yekutieli 2001."""
    rate_flip_p: float | None
    """Sign-flip p over problems; null where rate_q > drift.fdr."""
    rate_confirmed: bool | None
    """rate_flip_p ≤ drift.fdr · listed / tested; false where rate_q > drift.fdr."""
    stable_p: float | None
    """p of the claim |r̄_t − r̄_0| < drift.stability_margin · r̄_0."""
    stable_q: float | None
    """stable_p adjusted after Benjamini & Hochberg 1995."""
    magnitude_ratio: float | None
    """frozen_mean / frozen_mean_base; null unless it is alive on both."""
    magnitude_ratio_low: float | None
    """Lower end of its interval by linearisation over problems."""
    magnitude_ratio_high: float | None
    """Upper end."""
    magnitude_q: float | None
    """p of magnitude_ratio = 1, adjusted after Benjamini & Hochberg 1995."""
    own_rate: float | None
    """Firing rate under the SSAE of t of this chain, on the steps that the chain trains on: of t, in `null` of base; null where
    there is no such SSAE, as the following."""
    own_alive: bool | None
    """It fired on them often enough to be alive."""
    appeared: bool | None
    """own_alive, and not alive under S_0 on steps of base: what is left of a birth where latents have no directions."""
    vanished: bool | None
    """The reverse."""


STEP_TABLES = {"ssae_transfer": StepTransfer, "ssae_decomposition": StepDecomposition}
