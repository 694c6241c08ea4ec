"""The tables of interventions: one class per table, one field per column, its formula in the string under it.

All numbers are over the predicted tokens of the texts: response tokens of the first `interventions.problems` problems of the split
`test`. CE = Σ −log q(token) / tokens, in nats per token, of the policy π_t with other rows at the layer. See `drift_columns` for
`Estimate` and types.
"""

from typing import NamedTuple

from workflow.formats.drift_columns import Estimate


class Splice(NamedTuple):
    """A policy with one SAE in the place of its rows: kept positions of the layer's output are replaced, sinks stay as they are."""

    run: str
    """RL run."""
    text: str
    """Text set that is read."""
    kind: str
    """Kind of the SAE."""
    chain: str
    """Chain of the SAE; base stands under `real`."""
    seed: int
    """SAE seed."""
    layer: int
    """Layer."""
    sae_stage: str
    """Stage of the SAE."""
    stage: str
    """t, stage of the policy."""
    update: int
    """PPO updates behind the policy."""
    prompts: int
    """Problems."""
    tokens: int
    """Predicted tokens."""
    ce: float
    """CE of the policy as it is."""
    ce_spliced: float
    """CE with S(x) in the place of x."""
    ce_mean: float | None
    """CE with the mean of the kept rows in the place of each; null without that ablation."""
    ce_zero: float | None
    """CE with 0 in the place of each kept row; null without that ablation."""
    delta_ce: Estimate
    """ce_spliced − ce."""
    kl: Estimate
    """Σ KL(as it is‖spliced) / tokens, nats."""
    recovered_mean: Estimate | None
    """(ce_mean − ce_spliced) / (ce_mean − ce); read it beside delta_ce: it moves with its denominator, too."""
    recovered_zero: Estimate | None
    """(ce_zero − ce_spliced) / (ce_zero − ce)."""
    over_frozen: Estimate | None
    """delta_ce − that of S_0 on the same texts, paired by prompt; null for S_0 itself."""
    over_null: Estimate | None
    """delta_ce − that of U_t on the same texts, paired by prompt; only for S_t behind base, null without the chain `null`."""


class Outputs(NamedTuple):
    """What a policy predicts beside what base predicts on the same tokens."""

    run: str
    """RL run."""
    text: str
    """Text set that both read; in `onpolicy` what the policy of this stage wrote."""
    stage: str
    """t."""
    update: int
    """PPO updates behind the stage."""
    prompts: int
    """Problems."""
    tokens: int
    """Predicted tokens."""
    kl: Estimate
    """Σ KL(π_t‖π_0) / tokens over the whole vocabulary, nats."""
    kl_reverse: Estimate
    """Σ KL(π_0‖π_t) / tokens, nats."""
    entropy: float
    """Mean entropy of π_t per predicted token, nats."""
    entropy_base: float
    """The same of π_0."""
    entropy_change: Estimate
    """entropy − entropy_base, paired by prompt."""
    ce: float
    """CE of π_t."""
    ce_base: float
    """CE of π_0."""


class Solving(NamedTuple):
    """Answers of a policy with one SAE in the place of its rows, beside its own answers to the same problems; greedy.

    Replaced are rows of prompt and response alike that the row filter keeps, its median that of the policy's held-out store.
    """

    run: str
    """RL run."""
    text: str
    """Text set whose prompts are answered and whose store gives the median norm and the mean row."""
    kind: str
    """Kind of the SAE."""
    chain: str
    """Chain of the SAE; base stands under `real`."""
    seed: int
    """SAE seed."""
    layer: int
    """Layer."""
    sae_stage: str
    """Stage of the SAE."""
    stage: str
    """t, stage of the policy."""
    update: int
    """PPO updates behind the policy."""
    rule: str
    """Answer rule, `strict` or `flexible`."""
    prompts: int
    """Problems, one answer each."""
    accuracy: Estimate
    """Share of right answers of the policy as it is."""
    accuracy_spliced: Estimate
    """The same with S(x) in the place of x."""
    accuracy_mean: float | None
    """The same with the mean of the store's kept rows in the place of each; null without that ablation."""
    accuracy_zero: float | None
    """The same with 0; null without that ablation."""
    change: Estimate
    """accuracy_spliced − accuracy, paired by problem."""
    over_frozen: Estimate | None
    """accuracy_spliced − that with S_0, paired by problem; null for S_0 itself."""
    over_null: Estimate | None
    """accuracy_spliced − that with U_t, paired by problem; only for S_t behind base, null without the chain `null`."""
    right_right: int
    """Problems answered right without and with the SAE."""
    right_wrong: int
    """Right without, wrong with it."""
    wrong_right: int
    """Wrong without, right with it."""
    wrong_wrong: int
    """Wrong without and with it."""
    flip_p: float | None
    """Exact two-sided binomial p of right_wrong against wrong_right (McNemar 1947); null where nothing flipped."""
    same: float
    """Share of problems with the same response."""
    finished: float
    """Share of answers that ended by themselves, of the policy as it is."""
    finished_spliced: float
    """The same with the SAE: below finished the SAE costs the end of the answer, too."""
    response_tokens: float
    """Mean tokens of an answer, of the policy as it is."""
    response_tokens_spliced: float
    """The same with the SAE."""


class Causal(NamedTuple):
    """One kind of intervention on one group of latents at the last stage t of a run; intervals are by prompt, latents given.

    Groups: `drifted`, the latents of S_t that turned most beyond the null chain's of like density; `random`, latents of S_t that
    fire about as often; `null`, the latents of U_t that turned most beyond others of that chain; `all`, `all_null`, every latent.
    """

    run: str
    """RL run."""
    text: str
    """Text set that is read."""
    kind: str
    """Kind of the SAE."""
    seed: int
    """SAE seed."""
    layer: int
    """Layer."""
    stage: str
    """t."""
    update: int
    """PPO updates behind it."""
    action: str
    """`zero`, `mean`: one latent of π_t set to 0, to its mean over kept rows, x + (value − f) d; `steer`: strength · s · d added at
    every kept position, s its 95th percentile where it is active; `transplant`: π_0 with h_0 + Σ f_j (d_j^t − d_j^0), f of S_0."""
    group: str
    """See above."""
    strength: float
    """Of `steer`, else 0."""
    members: int
    """Interventions that the numbers are means over: single latents; of `transplant` the draws."""
    prompts: int
    """Problems."""
    tokens: int
    """Predicted tokens."""
    delta_ce: Estimate
    """CE with the intervention − CE without, mean over members; of `transplant` in π_0."""
    delta_ce_least: float
    """The least of the members…"""
    delta_ce_most: float
    """…and the largest: both tails, since some interventions on random latents lower CE."""
    kl: Estimate
    """Σ KL(π_t‖with the intervention) / tokens, nats, mean over members; of `transplant` from π_t to the changed π_0."""
    kl_least: float
    """The least of the members…"""
    kl_most: float
    """…and the largest."""
    kl_change: Estimate | None
    """Of `transplant`: kl − Σ KL(π_t‖π_0) / tokens, paired by prompt; below 0 it moves π_0 towards π_t. Else null."""
    over_random: Estimate | None
    """kl − that of `random` with the same action and strength, paired by prompt; null for `random`, `all`, `all_null`."""
    over_null: Estimate | None
    """kl − that of `null`, of `all` − `all_null`, paired by prompt; null for `random`, `null` and `all_null`."""


SPLICE_TABLES: dict[str, type] = {"splice": Splice, "outputs": Outputs}
"""The tables of the rule splice_tables by name."""
