"""The tables of voting: one class per table, one field per column, its formula in the string under it.

A pool is n sampled traces of every problem, written by one policy. A vote of k reads k of them. Its accuracy is the mean over
problems of the probability that its answer is right, over all subsets of k traces of the pool, each as likely: without bias, and
with less noise than one draw. Intervals are by group of near-duplicate problems. See `drift_columns` for `Estimate` and types.

w: weight of a trace, p_j: what a probe says of its step j, τ: exponent. All tables but `answers` name a scheme by the first
columns: `majority`, `length`, `brevity`, `confidence`, `probability`, `random`, `oracle`; with a probe `probe_vote` (aggregation
and τ chosen on development problems), `probe_best` (the trace of the largest w answers; aggregation chosen there),
`probe_published` (mean of p_j^0.8, nothing chosen); `published_majority` and `published_vote` as the SSAE paper's code counts
them, answers read by `workflow.numbers.legacy_last_number` and counted as strings.
"""

from typing import NamedTuple

from workflow.formats.drift_columns import Estimate


class Answered(NamedTuple):
    """One trace of a pool."""

    run: str
    """RL run of the policy; `shared` for base."""
    stage: str
    """Stage of the policy."""
    split: str
    """`val`: development, `test`: what is reported."""
    problem: str
    """Problem."""
    group: str
    """Near-duplicate problems share it."""
    trace: str
    """Trace."""
    sample: int
    """Its number in the pool."""
    answer: str | None
    """What it answers (`workflow.answers.final_answer`), equal values spelled the same; null: nothing, it votes for nothing."""
    gold: str | None
    """The gold answer in the same spelling."""
    right: bool
    """answer = gold."""
    flexible: bool
    """Verdict of the answer rule `flexible` on the trace."""
    finished: bool
    """It ended by itself, before the length limit."""
    tokens: int
    """Tokens of the response."""
    steps: int
    """Its reasoning steps."""
    log_probability: float | None
    """Σ log-probabilities of its tokens, nats; null where they are not known."""


class Voted(NamedTuple):
    """One scheme at the number of traces that is reported, `voting.k` or the whole pool."""

    run: str
    """RL run of the policy; `shared` for base."""
    stage: str
    """Stage of the policy."""
    update: int
    """PPO updates behind it."""
    scheme: str
    """See above."""
    task: str | None
    """What the probe was fitted to; null without a probe."""
    layer: int | None
    """Layer of its features; null where they are of none."""
    features: str | None
    """Its feature set."""
    model: str | None
    """Its model."""
    family: str | None
    """What the features are: `dense`, `sae`, `base_sae`, `ssae`, `part`, `random`, `surface` (see `probe_scores`)."""
    aggregation: str | None
    """How steps make w: `mean` of p_j^τ; `min`, `product` or `last` of p_j, to the power τ."""
    tau: float | None
    """τ; null where it has no part."""
    tuned: bool
    """aggregation and τ were chosen on development problems."""
    headline: bool
    """One of the schemes without a probe, or of its family the probe with the largest accuracy on development problems."""
    k: int
    """Traces per vote."""
    pool: int
    """n."""
    how: str
    """`exact` by a formula, `enumerated` over all subsets, `sampled` over drawn ones, `first`: the pool's first k traces."""
    subsets: int | None
    """Subsets of the pool that were voted on; null where a formula gives the mean over all."""
    problems: int
    """Problems of the split `test`."""
    groups: int
    """Groups of them."""
    accuracy: Estimate
    """Mean over problems of the probability of a right answer."""
    over_majority: Estimate
    """accuracy − that of `majority` with the same k and subsets, paired by problem; of published ones − `published_majority`."""
    probes: int
    """Probes whose scores weighed votes on this pool; 0: there were no scores, and no scheme needs any."""
    one: float
    """Accuracy of one trace, the mean over the pool."""
    unparsed: int
    """Traces without an answer."""
    unscored: int | None
    """Traces without any score of the probe; they get the mean weight of the others."""
    partly_scored: int | None
    """Traces of which some steps have no score; these steps are left out."""


class Curve(NamedTuple):
    """One scheme at one number of traces."""

    run: str
    stage: str
    update: int
    scheme: str
    task: str | None
    layer: int | None
    features: str | None
    model: str | None
    family: str | None
    aggregation: str | None
    tau: float | None
    headline: bool
    """These as in `voting`."""
    k: int
    """Traces per vote."""
    how: str
    """As in `voting`."""
    subsets: int | None
    """As in `voting`."""
    accuracy: Estimate
    """As in `voting`."""
    over_majority: Estimate
    """As in `voting`."""


class Tested(NamedTuple):
    """One scheme against plain majority with the same k, paired by problem; of published ones against `published_majority`."""

    run: str
    stage: str
    update: int
    scheme: str
    task: str | None
    layer: int | None
    features: str | None
    model: str | None
    family: str | None
    aggregation: str | None
    tau: float | None
    headline: bool
    """These as in `voting`."""
    k: int
    """Traces per vote."""
    difference: Estimate
    """over_majority of `voting`."""
    p: float
    """Two-sided p of the difference when groups of problems swap schemes (sign flips); its smallest value is 1 / (flips + 1)."""
    flips: int
    """Sign flips."""
    q: float
    """p adjusted after Benjamini and Hochberg over `tests` schemes."""
    tests: int
    """Schemes of this pool that were tested, majority and oracle left out."""
    holm: float | None
    """p adjusted after Holm (1979) over the headline schemes; null for others."""
    headline_tests: int
    """Headline schemes that were tested."""
    right_right: int
    """Problems right under majority and under the scheme, one vote each, of the pool's first k traces."""
    right_wrong: int
    """Right under majority, wrong under the scheme."""
    wrong_right: int
    """Wrong under majority, right under the scheme."""
    wrong_wrong: int
    """Wrong under both."""
    mcnemar_p: float | None
    """Exact two-sided binomial p of right_wrong against wrong_right (McNemar 1947), by problem; null where nothing differs."""


class Tuned(NamedTuple):
    """One aggregation and τ of one probe on development problems, the split `val`."""

    run: str
    stage: str
    scheme: str
    """`probe_vote` or `probe_best`."""
    task: str | None
    layer: int | None
    features: str | None
    model: str | None
    family: str | None
    """These as in `voting`."""
    aggregation: str
    """As in `voting`."""
    tau: float | None
    """As in `voting`."""
    k: int
    """Traces per vote, that of `voting`."""
    problems: int
    """Development problems."""
    accuracy: float
    """As in `voting`, on these."""
    chosen: bool
    """The largest accuracy; of equal ones the first in the order of `voting.aggregations`, then of `voting.taus`."""


VOTING_TABLES: dict[str, type] = {
    "answers": Answered, "voting": Voted, "voting_curves": Curve, "voting_tests": Tested, "voting_tuning": Tuned,
}  # fmt: skip
"""The tables of the phase by name."""
