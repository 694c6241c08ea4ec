"""The tables of Neuron2Graph: one class per table, one field per column, its formula in the string under it.

An explanation is scored on rows of the split `test` that the row filter keeps, in two ways. *uniform*: all of them; a latent is
active where f > 0. *top*: the rows of its `n2g.top_prompts` prompts of largest activation; active is f ≥ `n2g.strong` · its largest
activation in mining. F1 = 2·hits/(2·hits + false alarms + misses); AP ranks rows by the expected activation, an explanation
that says nothing has AP = the base rate. A ratio without denominator is 0. Intervals are by prompt. See `drift_columns` for
`Estimate` and types.
"""

from typing import NamedTuple

from workflow.formats.drift_columns import Estimate


class N2gLatent(NamedTuple):
    """One latent at one stage."""

    run: str
    """RL run."""
    text: str
    """Text set."""
    kind: str
    """Kind of the SAE."""
    seed: int
    """SAE seed."""
    layer: int
    """Layer."""
    stage: str
    """Stage of policy, rows and SAE."""
    sae: str
    """`trained`: the SAE of the chain `real`; `untrained`: one of the same kind with random weights."""
    latent: int
    """Index of the latent, kept along the chain."""
    group: str
    """Why it was chosen: `changed`, `random`, `listed`; `untrained`."""
    state: str
    """`mined`; `silent`: it never fires on the rows of the hop and was not mined; `unexplained`: no pattern was worth its bits."""
    category: str
    """What the patterns are about, by rule: number, operator, answer, newline, template, word, mixed, none."""
    label: str | None
    """Name by a language model; null where none was asked."""
    pattern: str | None
    """The pattern that saves the most bits; null without one."""
    patterns: int
    """Patterns that say that it is active, or paths of the trie."""
    contexts: int
    """Rows taken apart."""
    context_tokens: float | None
    """Mean length of their cut contexts."""
    kept: float | None
    """Mean share of the activation that is left in them."""
    spread: float | None
    """Mean over them of the largest difference between replacements in what a token matters."""
    firings: int
    """Rows of the hop on which it is active."""
    rate: float
    """Share of the kept rows of the hop."""
    prompts: int
    """Held-out prompts on which it is active."""
    base_rate: float
    """Share of held-out rows on which it is active: precision of a guess, and AP of saying nothing."""
    precision: Estimate | None
    """Of the patterns, uniform; null where the latent was not mined or is not active on held-out rows, as all that follow."""
    recall: Estimate | None
    """The same."""
    f1: Estimate | None
    """The same."""
    ap: Estimate | None
    """The same."""
    f1_unigram: float | None
    """Uniform F1 of a table of what the latent did on each token."""
    ap_unigram: float | None
    """Its AP."""
    f1_ngram: float | None
    """Uniform F1 of tables of the last 1, 2 and 3 tokens, the longest that was seen twice."""
    ap_ngram: float | None
    """Its AP."""
    f1_shuffled: float | None
    """Uniform F1 of the patterns of another latent of the same SAE, the next in firing rate."""
    ap_shuffled: float | None
    """Its AP."""
    gain: Estimate | None
    """f1 − the larger of f1_unigram and f1_ngram, paired by prompt."""
    precision_top: Estimate | None
    """Of the patterns, top."""
    recall_top: Estimate | None
    """The same."""
    f1_top: Estimate | None
    """The same."""
    f1_top_unigram: float | None
    """Top F1 of the table of tokens."""
    f1_top_ngram: float | None
    """Top F1 of the tables of the last tokens."""
    f1_top_shuffled: float | None
    """Top F1 of another latent's patterns."""


class N2gScore(NamedTuple):
    """Means over the mined latents of one SAE that are active on held-out rows."""

    run: str
    """RL run."""
    text: str
    """Text set."""
    kind: str
    """Kind of the SAE."""
    seed: int
    """SAE seed."""
    layer: int
    """Layer."""
    stage: str
    """Stage."""
    sae: str
    """`trained` or `untrained`."""
    explanation: str
    """`n2g`, `unigram`, `ngram`, or `shuffled`: the patterns of another latent."""
    rows: str
    """`uniform` or `top`."""
    latents: int
    """Latents of the means."""
    base_rate: float
    """Mean share of rows on which they are active: where a guess lies."""
    precision: Estimate
    """Mean over latents."""
    recall: Estimate
    """The same."""
    f1: Estimate
    """The same."""
    ap: Estimate
    """The same."""


class N2gTransfer(NamedTuple):
    """The graphs of one stage on rows of another, uniform; means over latents with a graph that fire on those rows."""

    run: str
    """RL run."""
    text: str
    """Text set."""
    kind: str
    """Kind of the SAE."""
    seed: int
    """SAE seed."""
    layer: int
    """Layer."""
    graph_stage: str
    """i: stage at which the graphs were mined."""
    stage: str
    """j: stage of the rows."""
    sae: str
    """`own`: activations of S_j; `frozen`: of S_0."""
    latents: int
    """Latents of the means."""
    precision: Estimate
    """Mean over latents."""
    recall: Estimate
    """The same."""
    f1: Estimate
    """The same."""
    ap: Estimate
    """The same."""
    loss: Estimate | None
    """f1 of the graphs mined at j on the same activations − f1, over latents that have both, paired by prompt; null where j was not
    mined with that SAE."""


class N2gPaths(NamedTuple):
    """The graphs of one latent at two stages, path by path; a path is the sequence of its tokens and classes, gaps left aside."""

    run: str
    """RL run."""
    text: str
    """Text set."""
    kind: str
    """Kind of the SAE."""
    seed: int
    """SAE seed."""
    layer: int
    """Layer."""
    latent: int
    """Index of the latent."""
    group: str
    """Why it was chosen."""
    from_stage: str
    """Earlier stage."""
    stage: str
    """Later stage."""
    kept: int
    """Paths of both."""
    new: int
    """Paths of the later one alone."""
    lost: int
    """Paths of the earlier one alone."""
    overlap: float | None
    """kept / (kept + new + lost); null where neither has a path."""
    overlap_halves: float | None
    """The same of the graphs of two halves of the earlier stage's texts, where only chance differs; null as there, and of graphs
    of `original`. A half has fewer rows, so paths of whole hops differ less by chance."""


class N2gSteps(NamedTuple):
    """One latent of one step-level SAE; scored on held-out steps, of which it is active on those where its code is above
    `n2g.steps.active_above`. A step is said to be active when a pattern matches it."""

    run: str
    """RL run; `shared` for the SSAE of base."""
    chain: str
    """Chain of the SSAE."""
    seed: int
    """Its seed."""
    stage: str
    """Its stage."""
    method: str
    """`patterns`, or `published`: the procedure of the SSAE paper's code."""
    latent: int
    """Index of the latent."""
    state: str
    """`mined`, `silent` or `unexplained`, as in the table `n2g`."""
    category: str
    """What the patterns are about, by rule."""
    pattern: str | None
    """The first one."""
    patterns: int
    """How many."""
    steps: int
    """Steps on which patterns were mined."""
    rate: float
    """Share of them on which it is active."""
    held_out_steps: int
    """Steps on which patterns are scored."""
    base_rate: float
    """Share of them on which it is active: precision of patterns that match everything."""
    precision: Estimate | None
    """Of the patterns; null of a latent that was not mined or is not active on held-out steps, as all that follow."""
    recall: Estimate | None
    """The same."""
    f1: Estimate | None
    """The same."""
    f1_always: float | None
    """2·base_rate/(1 + base_rate): F1 of patterns that match everything."""
    f1_tokens: float | None
    """F1 of the best single tokens, chosen as patterns are; null for `published`."""
    f1_ngrams: float | None
    """F1 of the best runs of up to three tokens, chosen as patterns are; null for `published`."""
    gain: Estimate | None
    """f1 − the largest of f1_always, f1_tokens and f1_ngrams."""


N2G_TABLES = {"n2g": N2gLatent, "n2g_scores": N2gScore, "n2g_transfer": N2gTransfer, "n2g_paths": N2gPaths, "n2g_steps": N2gSteps}
