"""All tests of single latents between two measurements paired by prompt, and how they stand in the columns of a table."""

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from sae_core.metrics.firing import LatentTotals
from workflow.config.drift import DriftConfig
from workflow.latent_tests import MagnitudeTests, RateTests, magnitude_tests, rate_tests
from workflow.prompt_firings import PairedFirings
from workflow.sign_flips import Confirmation, confirm

NOTHING = Confirmation(np.zeros(0, dtype=np.int64), np.zeros(0), 0.0, 0, np.zeros(0, dtype=bool))
"""The confirmation of an empty list."""
Columns = dict[str, Any]


class Tested(NamedTuple):
    """What was found between the two."""

    rates: RateTests
    magnitudes: MagnitudeTests
    confirmation: Confirmation
    """Of the latents that `rates` lists."""


def tested(paired: PairedFirings, drift: DriftConfig) -> Tested:
    """All tests of one pair of measurements.

    Args:
        paired: the measurements, the first one the reference.
        drift: thresholds.
    """
    thresholds = {"min_firings": drift.min_firings, "min_prompts": drift.min_prompts, "confidence": drift.confidence}
    rates = rate_tests(paired, margin=drift.stability_margin, **thresholds)
    listed, confirmation = np.flatnonzero(np.nan_to_num(rates.q, nan=1.0) <= drift.fdr), NOTHING
    if len(listed):
        count = int(rates.tested.sum())
        confirmation = confirm(paired, listed, tested=count, q=drift.fdr, flips=drift.sign_flips, seed=drift.seed)
    return Tested(rates, magnitude_tests(paired, **thresholds), confirmation)


def tested_columns(found: Tested) -> Columns:
    """One value per latent, by the names of `formats/latent_columns.Latent`."""
    rates, magnitudes = found.rates, found.magnitudes
    flips, confirmed = np.full(len(rates.p), np.nan), np.zeros(len(rates.p), dtype=bool)
    flips[found.confirmation.latents] = found.confirmation.p
    confirmed[found.confirmation.latents] = found.confirmation.confirmed
    return {
        "rate_tested": rates.tested, "rate_log_ratio": rates.log_ratio, "rate_log_ratio_low": rates.log_ratio_low,
        "rate_log_ratio_high": rates.log_ratio_high, "rate_p": rates.p, "rate_q": rates.q, "rate_q_dependent": rates.q_dependent,
        "rate_flip_p": flips, "rate_confirmed": known(confirmed, rates.tested), "stable_p": rates.stable_p,
        "stable_q": rates.stable_q, "magnitude_ratio": magnitudes.ratio, "magnitude_ratio_low": magnitudes.low,
        "magnitude_ratio_high": magnitudes.high, "magnitude_q": magnitudes.q,
    }  # fmt: skip


def known(values: np.ndarray, which: np.ndarray) -> pa.Array:
    """The values where they are known, else nulls."""
    return pa.array(values, mask=~which)


def enough(totals: LatentTotals, drift: DriftConfig) -> np.ndarray:
    """Latents that fired often enough to count as alive: bool [latent]."""
    return ((totals.firings >= drift.min_firings) & (totals.prompts >= drift.min_prompts)).numpy()


def mean_activation(totals: LatentTotals) -> pa.Array:
    """Mean of f over the rows where it is active; null where there is none."""
    mean = totals.activation / totals.firings.clamp(min=1)
    return known(mean.numpy(), (totals.firings > 0).numpy())
