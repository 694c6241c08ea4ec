"""Which latents fire more or less than before, which demonstrably do not, and how much stronger they fire: all paired by prompt.

A prompt's rate is its firings over its rows and every prompt counts once. Tests of single latents are many, so p-values come
with q-values over all tested latents of the call. TopK is compositional: where one latent fires more, others must fire less.
"""

from typing import Literal, NamedTuple

import numpy as np
from scipy.special import stdtr, stdtrit  # scipy.stats holds the same, and takes half a second of every job to import

from workflow.config.section import ConfigError
from workflow.prompt_firings import PairedFirings


class RateTests(NamedTuple):
    """One number per latent; NaN where a latent was not tested."""

    tested: np.ndarray
    """bool: it fired often enough in both measurements together."""
    rate_base: np.ndarray
    """r̄₀, mean over prompts of firings / rows in the first measurement."""
    rate: np.ndarray
    """r̄₁, the same in the second."""
    p: np.ndarray
    """Two-sided paired t-test of r₁ − r₀ over prompts; 1 where no prompt changed."""
    q: np.ndarray
    """p adjusted after Benjamini and Hochberg over the tested latents."""
    q_dependent: np.ndarray
    """p adjusted after Benjamini and Yekutieli, which holds under any dependence between latents."""
    stable_p: np.ndarray
    """p of the claim that r̄₁ lies within ± margin of r̄₀: the larger of two one-sided paired t-tests."""
    stable_q: np.ndarray
    """stable_p adjusted after Benjamini and Hochberg."""
    log_ratio: np.ndarray
    """ln(r̄₁/r̄₀); ±∞ where it fired in one measurement alone."""
    log_ratio_low: np.ndarray
    """Lower end of its interval; NaN where it is infinite."""
    log_ratio_high: np.ndarray
    """Upper end of its interval; NaN where it is infinite."""


class MagnitudeTests(NamedTuple):
    """One number per latent; NaN where a latent was not tested, or where its activations do not add up to something above 0."""

    tested: np.ndarray
    """bool: it fired often enough in each of the measurements."""
    mean_base: np.ndarray
    """E[f | f ≠ 0] = Σf / firings over all prompts in the first measurement."""
    mean: np.ndarray
    """The same in the second."""
    ratio: np.ndarray
    """mean / mean_base: free of how often it fires; of decoder norms too where both are encoded by one SAE."""
    low: np.ndarray
    """Lower end of the interval of ratio."""
    high: np.ndarray
    """Upper end of the interval of ratio."""
    p: np.ndarray
    """Two-sided test of ratio = 1, from the same linearisation as the interval."""
    q: np.ndarray
    """p adjusted after Benjamini and Hochberg over the tested latents."""


def rate_tests(paired: PairedFirings, *, min_firings: int, min_prompts: int, margin: float, confidence: float) -> RateTests:
    """Tests of change and of stability of every latent's firing rate.

    Args:
        paired: two measurements, the first one the reference.
        min_firings: rows on which a latent fired in both together, at least, …
        min_prompts: … over at least as many prompts.
        margin: relative change within which a rate counts as stable, 0.2 for ± 20 %.
        confidence: coverage of the interval of log_ratio.

    Source: two one-sided tests Schuirmann 1987, J. Pharmacokinet. Biopharm. 15, for a margin relative to the estimated reference
        as tests of r₁ − (1 ± margin)·r₀ (Hauschke et al. 1999, J. Biopharm. Stat. 9); interval by the delta method.

    Raises:
        ConfigError: margin is not between 0 and 1.
    """
    if not 0 < margin < 1:
        raise ConfigError(f"The margin of stability must lie between 0 and 1; got {margin}. Write 0.2 for ± 20 %.")
    tested = paired.testable(min_firings, min_prompts)
    names = ("rate_base", "rate", "p", "stable_p", "log_ratio", "half")
    columns = {name: np.full(paired.d_sae, np.nan) for name in names}
    for latents in paired.blocks(np.flatnonzero(tested)):
        before, after = paired.rates(latents)
        for name, values in zip(names, _rate_block(before, after, margin, confidence), strict=True):
            columns[name][latents] = values
    half = columns.pop("half")
    return RateTests(
        tested=tested, **columns, q=q_values(columns["p"], "bh"), q_dependent=q_values(columns["p"], "by"),
        stable_q=q_values(columns["stable_p"], "bh"),
        log_ratio_low=columns["log_ratio"] - half, log_ratio_high=columns["log_ratio"] + half,
    )  # fmt: skip


def _rate_block(before: np.ndarray, after: np.ndarray, margin: float, confidence: float) -> tuple[np.ndarray, ...]:
    """Means, p, p of stability, log ratio and half its interval, of latents in columns."""
    freedom = len(before) - 1
    p = 2 * stdtr(freedom, -np.abs(_t(after - before)))
    above = stdtr(freedom, -_t(after - (1 - margin) * before))
    below = stdtr(freedom, _t(after - (1 + margin) * before))
    mean_before, mean_after = before.mean(0), after.mean(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_ratio = np.log(mean_after / mean_before)
        error = np.std(after / mean_after - before / mean_before, axis=0, ddof=1) / np.sqrt(len(before))
    return mean_before, mean_after, p, np.maximum(above, below), log_ratio, stdtrit(freedom, (1 + confidence) / 2) * error


def _t(sample: np.ndarray) -> np.ndarray:
    """The t statistic of each column's mean: 0 for a column of zeros, ±∞ for another constant."""
    mean, error = sample.mean(0), sample.std(0, ddof=1) / np.sqrt(len(sample))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(mean == 0, 0.0, mean / error)


def magnitude_tests(paired: PairedFirings, *, min_firings: int, min_prompts: int, confidence: float) -> MagnitudeTests:
    """Ratio of the mean activation of active latents, with an interval by prompt.

    Linearised: the error of ln ratio is Σz over prompts, z = a₁/Σa₁ − m₁/Σm₁ − a₀/Σa₀ + m₀/Σm₀ with a prompt's activation a and
    firings m. So its variance is n/(n−1)·Σz² and its distribution t with n−1 degrees of freedom, n prompts where the latent fired.

    Args:
        paired: two measurements, the first one the reference.
        min_firings: rows on which a latent fired, at least, in each measurement, …
        min_prompts: … over at least as many prompts.
        confidence: coverage of the interval.

    Source: linearisation of a ratio over clusters, Cochran 1977, Sampling Techniques, ch. 6.
    """
    tested = paired.alive_in_both(min_firings, max(min_prompts, 2))
    names = ("mean_base", "mean", "ratio", "low", "high", "p")
    columns = {name: np.full(paired.d_sae, np.nan) for name in names}
    for latents in paired.blocks(np.flatnonzero(tested)):
        for name, values in zip(names, _magnitude_block(*paired.block(latents), confidence), strict=True):
            columns[name][latents] = values
    return MagnitudeTests(tested=tested, **columns, q=q_values(columns["p"], "bh"))


def _magnitude_block(
    firings_base: np.ndarray, activation_base: np.ndarray, firings: np.ndarray, activation: np.ndarray, confidence: float
) -> tuple[np.ndarray, ...]:
    """Means, ratio, ends of its interval and p, of latents in columns."""
    totals = [part.sum(0) for part in (firings_base, activation_base, firings, activation)]
    mean_base, mean = totals[1] / totals[0], totals[3] / totals[2]
    n = ((firings_base > 0) | (firings > 0)).sum(0)
    usable = (mean_base > 0) & (mean > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = activation / totals[3] - firings / totals[2] - activation_base / totals[1] + firings_base / totals[0]
        error = np.sqrt(n / (n - 1) * np.square(z).sum(0))
        log_ratio = np.where(usable, np.log(np.where(usable, mean / mean_base, 1.0)), np.nan)
        t = np.where(log_ratio == 0, 0.0, np.abs(log_ratio) / error)
    half = stdtrit(n - 1, (1 + confidence) / 2) * error
    return mean_base, mean, np.exp(log_ratio), np.exp(log_ratio - half), np.exp(log_ratio + half), 2 * stdtr(n - 1, -t)


def q_values(p: np.ndarray, method: Literal["bh", "by"]) -> np.ndarray:
    """p-values adjusted for the false discovery rate over those that are not NaN, which stay NaN.

    Source: Benjamini & Hochberg 1995, J. R. Stat. Soc. B 57 (bh); Benjamini & Yekutieli 2001, Ann. Stat. 29 (by).
    """
    adjusted, known = np.full(p.shape, np.nan), np.flatnonzero(~np.isnan(p))
    order, ranks = known[np.argsort(p[known])], np.arange(1, len(known) + 1)
    raised = p[order] * (len(known) / ranks)
    if method == "by":
        raised *= np.sum(1 / ranks)
    adjusted[order] = np.minimum.accumulate(raised[::-1])[::-1].clip(0, 1)
    return adjusted
