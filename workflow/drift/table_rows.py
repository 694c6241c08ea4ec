"""The rows of the tables quality, transfer and decomposition of one measurement."""

from collections.abc import Mapping
from typing import Any

from sae_core.metrics.reconstruction import ReconstructionSums, mean_l0, nmse_pooled, nmse_raw, nmse_rowwise
from workflow.drift.estimates import ROOT, Measurement
from workflow.drift.sinks import sink_rows
from workflow.formats.drift import BASE, NULL, REAL, SINKS, Pair, own_pair
from workflow.formats.drift_columns import Decomposition, Estimate, Quality, Transfer

CELL = ("run", "text", "kind", "seed", "layer")


def quality_rows(measured: Measurement, kl: Mapping[str, float | None], dead: Mapping[tuple[str, str], float]) -> list[Quality]:
    """Two rows per SAE, sinks dropped and included.

    Args:
        measured: one measurement.
        kl: nats per response by stage, None where unknown.
        dead: share of dead latents by (chain, stage).
    """
    rows = []
    for chain, stage, update in _every_sae(measured):
        for sinks in SINKS:
            pair = own_pair(chain, stage)
            error, change = measured.nmse(pair, sinks), measured.nmse(pair, sinks) - measured.nmse(ROOT, sinks)
            refused = _refusal(measured, chain, stage, sinks, kl.get(stage))
            delta = float(change[0])
            rows.append(
                Quality(
                    **_cell(measured), chain=chain, stage=stage, update=update, sinks=sinks, store_stage=pair.store_stage,
                    **_points(measured, pair, sinks), nmse=measured.estimate(error),
                    nmse_anchored=float(measured.nmse(pair, sinks, anchored=True)[0]),
                    dead_share=dead[chain, stage] if sinks == "dropped" else None, delta_nmse=measured.estimate(change),
                    kl=kl.get(stage), rate_refused=refused, delta_per_update=None if refused else delta / update,
                    delta_per_kl=None if refused else delta / kl[stage],  # type: ignore[operator]  # unknown KL is refused
                )
            )  # fmt: skip
    return rows


def transfer_rows(measured: Measurement) -> list[Transfer]:
    """Two rows per pair of SAE and store, sinks dropped and included."""
    rows = []
    for pair in measured.sums.pairs:
        for sinks in SINKS:
            error = measured.nmse(pair, sinks)
            value, low, high = measured.estimate(error)
            rows.append(
                Transfer(
                    **_cell(measured), chain=pair.chain, sinks=sinks, sae_stage=pair.sae_stage, store_stage=pair.store_stage,
                    nmse=value, low=low, high=high, nmse_anchored=float(measured.nmse(pair, sinks, anchored=True)[0]),
                    l0=float(mean_l0(measured.sums.of(pair, sinks))),
                    excess=measured.estimate(error - measured.nmse(Pair(REAL, pair.store_stage, pair.store_stage), sinks)),
                )
            )  # fmt: skip
    return rows


def decomposition_rows(measured: Measurement) -> list[Decomposition]:
    """Two rows per stage behind base, sinks dropped and included."""
    rows, facts = [], sink_rows(measured)._asdict()
    for stage, update in measured.sums.manifest["stages"][1:]:
        for sinks in SINKS:
            terms: dict[str, Estimate | None] = {}
            for anchored, prefix in ((False, ""), (True, "anchored_")):
                for name, statistic in measured.terms(stage, sinks, anchored)._asdict().items():
                    terms[f"{prefix}{name}"] = None if statistic is None else measured.estimate(statistic)
            refused = "; ".join(measured.not_comparable(stage, sinks).values()) or None
            place = {"stage": stage, "update": update, "sinks": sinks, "comparison_refused": refused}
            rows.append(Decomposition(**_cell(measured), **place, **terms, **facts))  # type: ignore[arg-type]  # of several types
    return rows


def _every_sae(measured: Measurement) -> list[tuple[str, str, int]]:
    """(chain, stage, update) of every SAE, base first and once."""
    (base, *later), chains = measured.sums.manifest["stages"], measured.sums.manifest["chains"]
    return [(REAL, *base), *((chain, stage, update) for chain in chains for stage, update in later)]


def _cell(measured: Measurement) -> dict[str, Any]:
    return {name: measured.sums.manifest[name] for name in CELL}


def _points(measured: Measurement, pair: Pair, sinks: str) -> dict[str, Any]:
    """Columns without intervals."""
    sums: ReconstructionSums = measured.sums.of(pair, sinks)
    everything = measured.sums.of(pair, "included").n.sum()
    return {
        "rows": int(sums.n.sum()),
        "prompts": int((sums.n > 0).sum()),
        "dropped_share": float(1 - sums.n.sum() / everything),
        "nmse_pooled": float(nmse_pooled(sums)),
        "nmse_raw": float(nmse_raw(sums)),
        "nmse_rowwise": float(nmse_rowwise(sums)),
        "l0": float(mean_l0(sums)),
    }


def _refusal(measured: Measurement, chain: str, stage: str, sinks: str, kl: float | None) -> str | None:
    """Why a change of nmse may not be told per update and per KL, None where it may.

    The size of a change is that of RL only if it differs from what as many SAE updates on base rows do.
    """
    if stage == BASE:
        return "the stage is base"
    if chain != REAL:
        return f"the chain {chain} is a control"
    adaptation = measured.terms(stage, sinks).adaptation
    if adaptation is None:
        return measured.not_comparable(stage, sinks).get(NULL, "there is no null chain to tell refit from change")
    _, low, high = measured.estimate(adaptation)
    if low <= 0 <= high:
        return "the interval of adaptation contains 0"
    if not kl:
        return "the KL to base is unknown" if kl is None else "the KL to base is 0"
    return None
