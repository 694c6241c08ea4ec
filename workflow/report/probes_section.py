"""The section on probes; it is on the page only where probes were fitted."""

from workflow.frames import Table
from workflow.report.evidence import Evidence
from workflow.report.markup import Column, Html, csv_link, element, folded, joined, note, number, plain, table, with_interval
from workflow.report.probe_figures import best_by_set, forest_figure, transfer_figure
from workflow.report.sections import MOST_ROWS, Gallery

ENDS = ("", "_low", "_high")
KEYS = ("run", "stage", "layer", "task", "features", "model")
MEASURES = ("auroc", "average_precision", "brier", "ece", "accuracy", "r2", "mae", "nats", "top_1")


def probes_section(evidence: Evidence, gallery: Gallery) -> Html:
    """Forest plots, comparisons, transfer and controls; empty without probes."""
    made = evidence.probes
    if "probes" not in made:
        return joined([])
    probes = made["probes"]
    needed = [*KEYS, "family", "validation", *(f"auroc{end}" for end in ENDS)]
    lacking = [name for name in needed if name not in probes]
    best = probes if lacking else best_by_set(probes)
    nothing = "no yes/no label was in enough problems; the table says why."
    parts = [
        element("p", _lead(probes)),
        *_unfinished(probes),
        gallery.show(lambda: forest_figure(evidence, best), best, needed, "Probes", nothing),
        *_compared(made.get("probe_contrasts")),
        *_transfer(evidence, gallery, made.get("probe_transfer")),
        *_controls(made.get("probe_controls")),
        folded(
            "All probes", _numbers(probes, [*KEYS, "steps", "prompts"], MEASURES, "All probes", "probes_all", tail=("not_fitted",))
        ),
    ]
    return joined(parts)


def _lead(probes: Table) -> str:
    judged = probes[probes["used"].notna()] if "used" in probes else probes.head(0)
    wins = int(judged["used"].astype(bool).sum())
    verdict = (
        f"{plain(wins)} of {plain(len(judged))} probes on SAE codes validate better than every baseline of their task."
        if len(judged)
        else "There are no probes on SAE codes."
    )
    return (
        "A probe predicts a label of a reasoning step from its features. It is fitted on problems of the split train, its penalty "
        "is chosen in folds of these, and it is measured on problems of the split test, near-duplicates always together. "
        f"{verdict} An SAE probe is worth using only where it does."
    )


def _unfinished(probes: Table) -> list[Html]:
    """How many probes had a fit that did not converge; nothing where none had."""
    stopped = int((probes["unconverged"] > 0).sum()) if "unconverged" in probes else 0
    if not stopped:
        return []
    linear = int(probes["unconverged"].notna().sum())
    return [
        note(
            f"In {plain(stopped)} of {plain(linear)} linear probes the solver of a fit stopped at its limit of iterations before "
            "it converged; another probe of the set may know a little more than is told here. The column unconverged of the "
            "table counts these fits."
        )
    ]


def _compared(contrasts: Table | None) -> list[Html]:
    if contrasts is None or contrasts.empty:
        return [note("Comparison of SAE codes with baselines: there is none.")]
    order = ["run", "stage", "layer", "task", "features", "model", "against", "against_features", "against_model", "measure"]
    mine = contrasts[contrasts["against"] == "baseline"] if "against" in contrasts else contrasts
    what = "SAE codes beside the baseline that validates best, on the same steps; above 0 the codes are better"
    every = _numbers(contrasts, order, ("delta",), "All comparisons of feature sets", "probe_contrasts_all")
    return [_numbers(mine, order, ("delta",), what, "probe_contrasts"), folded("All comparisons", every)]


def _transfer(evidence: Evidence, gallery: Gallery, transfer: Table | None) -> list[Html]:
    if transfer is None or transfer.empty:
        return []
    needed = ["run", "layer", "task", "view", "features", "fit_stage", "stage", "auroc"]
    what = "Probes of one stage on the steps of another"
    figure = gallery.show(lambda: transfer_figure(evidence, transfer), transfer, needed, what, "")
    return [
        figure,
        folded(f"{what}, all numbers", _numbers(transfer, needed[:-1], ("auroc", "excess"), what, "probe_transfer_all")),
    ]


def _controls(controls: Table | None) -> list[Html]:
    if controls is None or controls.empty:
        return []
    permuted = controls[controls["control"] == "permuted"].dropna(subset="auroc")
    inside = int(((permuted["auroc_low"] <= 0.5) & (permuted["auroc_high"] >= 0.5)).sum())
    text = (
        f"With labels dealt out anew among problems, the interval of the AUROC holds ½ in {plain(inside)} of "
        f"{plain(len(permuted))} fits. Other controls compare only steps of like length, of one place in their traces, or with no "
        "error before them."
    )
    order = ["run", "stage", "layer", "task", "features", "model", "control", "repeat", "steps"]
    return [
        element("p", text),
        folded("Controls", _numbers(controls, order, ("auroc",), "Controls of probes", "probe_controls_all")),
    ]


def _numbers(
    frame: Table, keys: list[str], estimates: tuple[str, ...], caption: str, name: str, tail: tuple[str, ...] = ()
) -> Html:
    """Keys as they are, estimates with their intervals, of a long table the first rows; the data as a link."""
    first, cut = frame.head(MOST_ROWS), f"; the first {MOST_ROWS} of {plain(len(frame))} rows" if len(frame) > MOST_ROWS else ""
    there = [one for one in estimates if one in frame and frame[one].notna().any()]
    signs = ("delta", "excess")
    shown = {f"{one}_shown": [with_interval(row, one, sign=one in signs) for row in first.to_dict("records")] for one in there}
    numbers = ("layer", "steps", "prompts", "repeat")
    columns = [
        *(Column(key, key.replace("_", " "), plain if key in numbers else None) for key in keys),
        *(Column(f"{one}_shown", one.replace("_", " "), str) for one in there),
        *([Column("validation", "validation", number)] if "validation" in frame else []),
        *(Column(key, key.replace("_", " "), plain) for key in tail),
    ]
    return joined([table(first.assign(**shown), columns, caption + cut), element("p", csv_link(frame, name), class_="small")])
