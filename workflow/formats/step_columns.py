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


STEP_TABLES = {"ssae_transfer": StepTransfer, "ssae_decomposition": StepDecomposition}
