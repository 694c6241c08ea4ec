"""The sections of the page: figures and tables under their headings; what cannot be drawn is said instead."""

import logging
from collections.abc import Callable
from typing import Any

from workflow.frames import Table
from workflow.report.drawing import Figure, shown
from workflow.report.drift_figures import decomposition_bars, drift_curves, main_text
from workflow.report.evidence import ONE_SAE, Evidence
from workflow.report.frames import of_text
from workflow.report.markup import (
    Column,
    Html,
    csv_link,
    element,
    folded,
    joined,
    note,
    number,
    percent,
    plain,
    signed,
    table,
    with_interval,
)
from workflow.report.matrix_figures import cosine_curves, transfer_maps
from workflow.report.policy_figures import greedy_figure, ppo_figure, warmup_figure
from workflow.report.sae_figures import histories_figure

log = logging.getLogger(__name__)
MOST_ROWS = 500
"""Longer tables show this many rows and hand over the rest as data."""
CELL = ["run", "text", "kind", "seed", "layer"]


class Gallery:
    """The figures of the page, collected while its sections are written, so that they can be saved, too."""

    def __init__(self) -> None:
        self.figures: list[Figure] = []

    def show(self, draw: Callable[[], Figure], frame: Table, columns: list[str], what: str, empty: str) -> Html:
        """The figure, or a note that says why it is missing: no rows (`empty`), or columns that the table lacks."""
        if frame.empty:
            return note(f"{what}: {empty}")
        if lacking := [name for name in columns if name not in frame]:
            return note(f"{what}: left out, the table lacks {', '.join(lacking)}.")
        figure = draw()
        log.info("figure %s: %d panels", figure.name, sum(len(panels) for _, panels in figure.groups))
        self.figures.append(figure)
        return shown(figure)


def texts(evidence: Evidence) -> list[str]:
    """Text sets, that of the headline first."""
    found = list(dict.fromkeys(evidence.quality["text"])) if "text" in evidence.quality else []
    return sorted(found, key=lambda text: text != main_text(evidence))


def policies_section(evidence: Evidence, gallery: Gallery, accuracy: Table) -> Html:
    """PPO curves, the warm-up and held-out accuracy."""
    given = evidence.study.get("policies", {}).get("source") == "given"
    absent = (
        "the policies were given from outside, their training curves are not known here." if given else "no curve was handed over."
    )
    parts = [gallery.show(lambda: ppo_figure(evidence), evidence.curves, ["run", "stage", "update"], "PPO curves", absent)]
    if len(evidence.warmup):
        parts.append(
            folded("Format warm-up", gallery.show(lambda: warmup_figure(evidence), evidence.warmup, ["update"], "Warm-up", ""))
        )
    parts.append(gallery.show(
        lambda: greedy_figure(evidence, accuracy), accuracy, ["strict", "flexible"], "Held-out greedy accuracy",
        "no problems were solved greedily (traces.greedy_problems).",
    ))  # fmt: skip
    columns = [
        *(Column(name, label, show) for name, label, show in (
            ("run", "run", None), ("stage", "stage", None), ("update", "PPO updates", plain), ("problems", "problems", plain))),
        *(Column(f"{rule}{end}", f"{rule}{said}", percent) for rule in ("strict", "flexible")
          for end, said in (("", ""), ("_low", ", low"), ("_high", ", high"), ("_gain", ", from base"), ("_gain_low", ", low"),
                            ("_gain_high", ", high"))),
    ]  # fmt: skip
    return joined([*parts, table(accuracy, columns, "Held-out greedy accuracy by stage") if len(accuracy) else ""])


def saes_section(evidence: Evidence, gallery: Gallery) -> Html:
    """Training and held-out quality of the SAEs."""
    columns = [*ONE_SAE, "epoch", "nmse"]
    training = gallery.show(
        lambda: histories_figure(evidence), evidence.histories, columns, "SAE training", "no history was handed over."
    )
    lead = element(
        "p",
        "nmse = squared error over the variance about one mean per dimension, on held-out problems; nmse_pooled = the same over "
        "the variance of all elements pooled (the convention of OhhMoo SAE-RL). Rows that the row filter drops (attention sinks) "
        "are left out in lines marked dropped and counted in lines marked included.",
    )  # fmt: skip
    if evidence.quality.empty:
        return joined([lead, note("SAE quality: the table is empty."), training])
    rates = _rates(evidence.quality)
    return joined(
        [
            lead,
            long_table(evidence.quality, QUALITY, "Held-out quality of every SAE", "quality_all"),
            rates,
            training,
        ]
    )


def _rates(quality: Table) -> Html:
    """The refused rates, said out loud."""
    if "rate_refused" not in quality:
        return note("Rates per PPO update and per KL: left out, the table lacks rate_refused.")
    judged = quality[(quality["stage"] != "base") & (quality["chain"] == "real")]
    refused = int(judged["rate_refused"].notna().sum())
    if not refused:
        return element("p", "Rates of nmse per PPO update and per KL stand in every line of the chain real.")
    counts = f"{plain(refused)} of {plain(len(judged))} lines of the chain real"
    why = "real and null are not distinguished or the divisor is unknown; the table says why"
    return element("p", f"Rates of nmse per PPO update and per KL are refused in {counts}, where {why}.")


def drift_section(evidence: Evidence, gallery: Gallery, quantiles: dict[str, Table]) -> Html:
    """Curves, transfer maps, decomposition and turning of directions; text sets beyond the headline's are folded."""
    parts = []
    if "null" not in set(evidence.transfer.get("chain", [])) and "null" not in set(evidence.quality.get("chain", [])):
        parts.append(note("There is no null chain (design.chains): how much of the change is refit cannot be told apart."))
    for text in texts(evidence):
        drawn = [
            _transfer(evidence, gallery, text),
            *_change(evidence, gallery, text),
            _turning(evidence, gallery, text, quantiles[text]),
        ]
        parts += drawn if text == main_text(evidence) else [folded(f"Text set {text}", *drawn, anchor=f"text-{text}")]
    what = "Decomposition of the change of nmse since base"
    parts.append(long_table(evidence.decomposition, DECOMPOSITION, what, "decomposition_all"))
    every = long_table(evidence.transfer, TRANSFER, "Transfer: SAE of one stage on rows of another", "transfer_all")
    parts.append(folded("Transfer, all numbers", every))
    return joined(parts)


def _transfer(evidence: Evidence, gallery: Gallery, text: str) -> Html:
    columns = [*CELL, "sae_stage", "store_stage", "nmse"]
    rows = of_text(evidence.transfer, text)
    return gallery.show(
        lambda: transfer_maps(evidence, text), rows, columns, f"Transfer maps, text {text}", "the table has no such rows."
    )


def _change(evidence: Evidence, gallery: Gallery, text: str) -> list[Html]:
    transfer, decomposition = of_text(evidence.transfer, text), of_text(evidence.decomposition, text)
    lines = [*CELL, "chain", "sae_stage", "store_stage", "nmse", "nmse_low", "nmse_high"]
    parts = [*CELL, "stage", "shift", "shift_low", "shift_high"]
    empty = "the table has no such rows."
    return [
        gallery.show(lambda: decomposition_bars(evidence, text), decomposition, parts, f"Decomposition, text {text}", empty),
        gallery.show(lambda: drift_curves(evidence, text), transfer, lines, f"Drift curves, text {text}", empty),
    ]


def _turning(evidence: Evidence, gallery: Gallery, text: str, quantiles: Table) -> Html:
    what = f"Turning of decoder directions, text {text}"
    if lacking := [name for name in (*ONE_SAE, "decoder_cosine") if name not in evidence.latents]:
        return note(f"{what}: left out, the table lacks {', '.join(lacking)}.")
    return gallery.show(lambda: cosine_curves(evidence, quantiles, text), quantiles, [], what, "the table has no such rows.")


def long_table(frame: Table, columns: list[Column], caption: str, name: str) -> Html:
    """A table with its data as a link; of a long one the first rows."""
    cut = f"; the first {plain(MOST_ROWS)} of {plain(len(frame))} rows" if len(frame) > MOST_ROWS else ""
    shown_columns = [column.name for column in columns]
    first = _with_shown(frame.head(MOST_ROWS), [name.removesuffix("_shown") for name in shown_columns if name.endswith("_shown")])
    return joined([table(first, columns, f"{caption}{cut}"), element("p", csv_link(frame, name), class_="small")])


def _with_shown(frame: Table, names: list[str]) -> Table:
    """The frame with a column `<name>_shown`, value and interval as text, for each name it has."""
    texts_of: dict[str, Any] = {
        f"{name}_shown": [with_interval(row, name, sign=name != "nmse") for row in frame.to_dict("records")]
        for name in names
        if name in frame
    }
    return frame.assign(**texts_of)


def _keys(*names: str) -> list[Column]:
    return [
        Column(name, name.replace("_", " "), plain if name in ("seed", "update", "layer", "rows", "prompts") else None)
        for name in names
    ]


TERMS = {
    "delta": "ΔN",
    "shift": "shift",
    "refit": "refit",
    "null_refit": "null refit",
    "adaptation": "adaptation",
    "contrast": "contrast",
    "repeat_floor": "floor of a repeated hop",
    "repeat_shift_floor": "that of shift",
    "cold_gap": "fresh SAE − chain",
}
QUALITY = [
    *_keys("run", "text", "kind", "chain", "seed", "layer", "stage", "update", "sinks", "store_stage"),
    Column("nmse_shown", "nmse [interval]", str), Column("nmse_pooled", "nmse_pooled", number),
    Column("nmse_anchored", "nmse_anchored", number), Column("nmse_raw", "nmse_raw", number),
    Column("nmse_rowwise", "nmse_rowwise", number), Column("l0", "l0", number),
    Column("dead_share", "dead", percent), Column("dropped_share", "rows dropped", percent), *_keys("rows", "prompts"),
    Column("delta_nmse_shown", "Δnmse since base [interval]", str), Column("delta_per_update", "per PPO update", signed),
    Column("delta_per_kl", "per nat of KL", signed), Column("rate_refused", "why no rate"),
]  # fmt: skip
DECOMPOSITION = [
    *_keys("run", "text", "kind", "seed", "layer", "stage", "update", "sinks"),
    *(Column(f"{term}_shown", label, str) for term, label in TERMS.items()),
    Column("comparison_refused", "not compared"),
]
TRANSFER = [
    *_keys("run", "text", "kind", "chain", "seed", "layer", "sinks", "sae_stage", "store_stage"),
    *(Column(name, label, number) for name, label in (("nmse", "nmse"), ("nmse_low", "low"), ("nmse_high", "high"), ("l0", "l0"))),
    *(
        Column(f"excess{end}", f"from the diagonal{said}", signed)
        for end, said in (("", ""), ("_low", ", low"), ("_high", ", high"))
    ),
]
