"""What changed in the frozen view of one stage: rates, under the SAE's own rule and under a threshold, and magnitudes."""

from collections.abc import Sequence
from typing import NamedTuple

from sae_core.metrics.firing import LatentTotals, latent_totals
from workflow.config.drift import DriftConfig
from workflow.drift.tested import tested
from workflow.drift.views import OWN_RULE, THRESHOLD, KeptFirings, View, frozen_pairs
from workflow.formats.drift import NULL
from workflow.latent_tests import MagnitudeTests, RateTests, rate_tests
from workflow.prompt_firings import PairedFirings, PromptFirings, with_rows_in_both
from workflow.sign_flips import Confirmation


class Frozen(NamedTuple):
    """The frozen view of one stage in totals: on X_t and on X_0."""

    now: LatentTotals
    base: LatentTotals
    rows: int
    """Kept rows of X_t."""
    rows_base: int
    """Kept rows of X_0."""


class Changes(NamedTuple):
    """Tests between X_0 and X_t, paired by prompt."""

    rates: RateTests
    magnitudes: MagnitudeTests
    confirmation: Confirmation
    """Of the latents that `rates` lists."""
    thresholds: RateTests | None
    """As `rates`, under a threshold; None in the chain `null`, whose SAEs are not counted so."""
    threshold: Frozen | None
    """Totals under it."""


def frozen_totals(firings: KeptFirings, chain: str, stage: str, rule: str = OWN_RULE) -> Frozen:
    """Totals of the frozen view."""
    base, now = (firings.of(View(pair, rule)) for pair in frozen_pairs(chain, stage))
    return Frozen(latent_totals(now), latent_totals(base), int(now.rows.sum()), int(base.rows.sum()))


def changes(
    firings: KeptFirings, problems: Sequence[str], chain: str, stage: str, drift: DriftConfig, with_threshold: bool
) -> Changes:
    """All tests of one stage in the frozen view of a chain.

    Args:
        firings: counts by prompt.
        problems: names of the prompts.
        chain: chain of the SAE.
        stage: a stage behind base.
        drift: thresholds.
        with_threshold: views under a threshold were counted; otherwise the SAE's own rule is one.
    """
    found = Changes(*tested(_paired(firings, problems, chain, stage, OWN_RULE), drift), None, None)
    if chain == NULL:
        return found
    if not with_threshold:
        return found._replace(thresholds=found.rates, threshold=frozen_totals(firings, chain, stage))
    under = rate_tests(
        _paired(firings, problems, chain, stage, THRESHOLD), margin=drift.stability_margin, min_firings=drift.min_firings,
        min_prompts=drift.min_prompts, confidence=drift.confidence,
    )  # fmt: skip
    return found._replace(thresholds=under, threshold=frozen_totals(firings, chain, stage, THRESHOLD))


def _paired(firings: KeptFirings, problems: Sequence[str], chain: str, stage: str, rule: str) -> PairedFirings:
    base, now = (firings.of(View(pair, rule)) for pair in frozen_pairs(chain, stage))
    base, now = with_rows_in_both(base, now)
    return PairedFirings(PromptFirings(problems, base), PromptFirings(problems, now))
