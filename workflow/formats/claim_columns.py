"""The tables of what may be said, in the manner of `drift_columns`: differences between runs, verdicts of the claim gate."""

from typing import NamedTuple

from workflow.formats.drift_columns import Estimate

BEYOND, NOT_BEYOND, NO_NULL = "differs from base beyond refit", "not distinguished from refit", "no comparable null chain"
EXPLORATORY = "may differ from base beyond refit"
"""Verdicts of the claim gate; the last where nothing speaks against it, but not every condition was measured."""


class Contrast(NamedTuple):
    """What one run changed more than another, at a stage that both have, on the same problems; paired by prompt."""

    run: str
    """RL run."""
    against: str
    """The other RL run."""
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
    shift: Estimate
    """shift of `run` − shift of `against`."""
    adaptation: Estimate | None
    """The same of adaptation; null without the chain `null`."""


class Claim(NamedTuple):
    """What may be said about one stage at one layer; conditions are null where they were not measured."""

    run: str
    """RL run."""
    text: str
    """Text set of the evaluated rows."""
    kind: str
    """Kind of the SAEs."""
    stage: str
    """t."""
    update: int
    """PPO updates behind the stage."""
    layer: int
    """Layer."""
    sae_seeds: int
    """SAE seeds behind it."""
    rl_seeds: int
    """Runs that differ from this one in their seed alone, itself included."""
    shift: Estimate
    """Mean over SAE seeds, sinks dropped, and the ends of what all their intervals lie in."""
    adaptation: Estimate | None
    """The same of adaptation; null without the chain `null`."""
    holds_shift: bool | None
    """The interval of shift excludes 0, on one side in all SAE seeds."""
    holds_adaptation: bool | None
    """The interval of adaptation excludes 0, on one side in all SAE seeds."""
    holds_above_floor: bool | None
    """The ends next to 0 of the intervals of shift and adaptation are farther from it than `repeat_shift_floor_high`, in all
    SAE seeds."""
    holds_same_in_seeds: bool | None
    """≥ 3 SAE seeds and ≥ 2 RL seeds, all with shift and adaptation on the same sides; false where sides are opposite."""
    holds_anchored: bool | None
    """anchored_shift and anchored_adaptation lie on the same sides."""
    holds_with_sinks: bool | None
    """With sinks included, shift and adaptation do not lie on the opposite sides; null where an SAE of base reconstructs sinks no
    better than their mean does (`sink_nmse` ≥ 1): such sums tell nothing of drift."""
    holds_replayed: bool | None
    """On the text `replayed`, the means over seeds have the same signs."""
    holds_reward: bool | None
    """The contrasts of shift and adaptation with every run that differs in permuted rewards exclude 0, in all SAE seeds."""
    holds_latents: bool | None
    """S_0 and U_t, none of which saw rows of t, both have latents with `rate_confirmed`, in all SAE seeds."""
    about_sinks: str | None
    """What sink rows are to the SAEs of base, and what to do; null where the condition holds or there are none."""
    refused: str | None
    """Which control chains were left out of the comparison, and why; the first reason of all SAE seeds."""
    verdict: str
    """`differs from base beyond refit`: all conditions but the last two hold; `may differ …`: none fails, not all were measured."""
    failing: str | None
    """Conditions that fail."""
    missing: str | None
    """Conditions that were not measured."""
    reward_verdict: str
    """The verdict with `holds_reward` among the conditions."""
    latents_verdict: str
    """The verdict with `holds_latents` among the conditions."""


CLAIM_TABLES: dict[str, type] = {"contrasts": Contrast, "claims": Claim}
"""By name."""
