"""What rows that the filter drops do to sums that include them: the share they carry, and whether the SAE of base knows them.

SAEs are not trained on these rows. One that reconstructs them no better than their mean does tells nothing of drift in them.
"""

from typing import Any, NamedTuple

from sae_core.metrics.reconstruction import ReconstructionSums
from workflow.drift.estimates import ROOT, Measurement
from workflow.frames import Table

UNKNOWN = 1.0
"""nmse over sink rows from which on an SAE knows no more of them than their mean."""


class SinkRows(NamedTuple):
    """S_0 on the rows of base that the filter drops; columns of `Decomposition`."""

    sink_rows: float
    """Their share of the rows."""
    sink_variance: float | None
    """Their share of Σ‖x−μ‖² over all rows; None without such rows."""
    sink_error: float | None
    """Their share of Σ‖x−x̂‖²."""
    sink_nmse: float | None
    """Σ‖x−x̂‖² / Σ‖x−μ_s‖² over them alone, μ_s their own mean; infinite where they are all equal."""


def sink_rows(measured: Measurement) -> SinkRows:
    """The facts of one measurement, from what the sums with these rows have more than those without."""
    every, kept = measured.sums.of(ROOT, "included"), measured.sums.of(ROOT, "dropped")
    sinks = ReconstructionSums(*(both - one for both, one in zip(every, kept, strict=True)))
    n, total = float(sinks.n.sum()), float(every.n.sum())
    if n == 0:
        return SinkRows(0.0, None, None, None)
    mean = every.xc.sum(0) / total
    about_mean = sinks.x2c.sum() - 2 * (sinks.xc.sum(0) @ mean) + n * mean.square().sum()
    variance = every.x2c.sum() - total * mean.square().sum()
    error, own = float(sinks.sse.sum()), float(sinks.x2c.sum() - sinks.xc.sum(0).square().sum() / n)
    # equal rows leave nothing but rounding
    equal = own <= 1e-12 * float(sinks.x2c.sum())
    return SinkRows(n / total, float(about_mean / variance), error / float(every.sse.sum()), float("inf") if equal else error / own)


def known(rows: Table) -> bool:
    """Whether the SAE of base of every seed knows its sink rows better than their mean; true where there are none.

    Args:
        rows: of the decomposition, at least one per SAE seed.
    """
    return "sink_nmse" not in rows or not bool((rows["sink_nmse"] >= UNKNOWN).any())


def described(rows: Table) -> str | None:
    """What was found in sink rows and what to do, of the SAE seed that knows them least; None where there are none.

    Args:
        rows: of the decomposition, at least one per SAE seed.
    """
    if "sink_nmse" not in rows or rows["sink_nmse"].isna().all():
        return None
    worst: Any = rows.loc[rows["sink_nmse"].idxmax()]
    if worst["sink_nmse"] == float("inf"):
        knows = "they are all equal, so that their mean says all of them and it does not"
    else:
        unknown = ", no better than their mean" if worst["sink_nmse"] >= UNKNOWN else ""
        knows = f"its nmse over them is {worst['sink_nmse']:.2g}{unknown}"
    shares = [_percent(worst[name]) for name in ("sink_rows", "sink_variance", "sink_error")]
    return (
        f"{shares[0]} of the rows of base are sinks, on which SAEs are not trained, with {shares[1]} of the variance and "
        f"{shares[2]} of the squared error of the SAE of base; {knows}. To include them, train on them: "
        "activations.skip_positions=0 and activations.max_norm_multiple above all norms, such as 1e9"
    )


def _percent(share: float) -> str:
    """12.3 %; near the ends with as many digits as tell it from 0 or 100 %."""
    for digits in range(1, 6):
        if (shown := f"{100 * share:.{digits}f}") not in (f"{0:.{digits}f}", f"{100:.{digits}f}"):
            return f"{shown} %"
    return f"{100 * share:.0f} %"
