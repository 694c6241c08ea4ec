"""The section on interventions; it is on the page only where the language model was intervened upon."""

from workflow.frames import Table
from workflow.report.drift_figures import main_text
from workflow.report.evidence import Evidence
from workflow.report.intervention_figures import causal_figure, outputs_figure, solving_figure, splice_figure
from workflow.report.markup import Column, Html, csv_link, element, folded, joined, number, plain, table, with_interval
from workflow.report.sections import Gallery

CELL = ["run", "text", "kind", "seed", "layer", "stage"]
SPLICE = ("delta_ce", "kl", "recovered_mean", "recovered_zero", "over_frozen", "over_null")
OUTPUTS = ("kl", "kl_reverse", "entropy_change")
SOLVING = ("accuracy", "accuracy_spliced", "change", "over_frozen", "over_null")
CAUSAL = ("delta_ce", "kl", "kl_change", "over_random", "over_null")
SIGNED = ("delta_ce", "change", "over_frozen", "over_null", "over_random", "entropy_change", "kl_change")


def interventions_section(evidence: Evidence, gallery: Gallery) -> Html:
    """Figures and tables of every kind of intervention that was made."""
    parts = [
        element(
            "p",
            "Numbers are nats per response token of the first held-out problems; replaced are the rows that the row filter keeps, "
            "attention sinks stay as they are.",
        )
    ]
    made = evidence.interventions
    drawn = (("splice", _splice), ("outputs", _outputs), ("solving", _solving), ("causal", _causal))
    return joined([*parts, *(part for name, show in drawn if name in made for part in show(evidence, gallery, made[name]))])


def _splice(evidence: Evidence, gallery: Gallery, frame: Table) -> list[Html]:
    needed = [*CELL, "chain", "sae_stage", *_ends("delta_ce"), *_ends("recovered_mean")]
    figures = [
        gallery.show(lambda text=text: splice_figure(evidence, frame, text), frame, needed, "Splices", "the table has no rows.")
        for text in _texts(evidence, frame)
    ]
    points = [Column(name, label, number) for name, label in (("ce", "CE"), ("ce_mean", "CE, mean"), ("ce_zero", "CE, zero"))]
    keys = _keys("run", "text", "kind", "seed", "layer", "stage", "chain", "sae_stage", "tokens")
    return [*figures, _table(frame, [*keys, *points], SPLICE, "SAEs in the place of the rows", "splice_all")]


def _outputs(evidence: Evidence, gallery: Gallery, frame: Table) -> list[Html]:
    needed = ["run", "text", "stage", *_ends("kl"), *_ends("kl_reverse"), *_ends("entropy_change")]
    what, empty = "Predictions beside base", "there is no stage behind base."
    keys = [*_keys("run", "text", "stage", "tokens"), Column("entropy", "entropy", number), Column("ce", "CE", number)]
    figure = gallery.show(lambda: outputs_figure(evidence, frame), frame, needed, what, empty)
    return [figure, _table(frame, keys, OUTPUTS, what, "outputs_all")]


def _solving(evidence: Evidence, gallery: Gallery, frame: Table) -> list[Html]:
    needed = [*CELL, "chain", "sae_stage", "rule", *_ends("accuracy"), *_ends("accuracy_spliced")]
    what = "Task accuracy with SAEs in the place of the rows"
    figure = gallery.show(lambda: solving_figure(evidence, frame), frame, needed, what, "the table has no rows.")
    flips = ("right_right", "right_wrong", "wrong_right", "wrong_wrong")
    keys = [
        *_keys("run", "kind", "seed", "layer", "stage", "chain", "sae_stage", "rule", "prompts", *flips),
        *(Column(name, label, number) for name, label in (
            ("flip_p", "p of flips"), ("accuracy_mean", "accuracy, mean"), ("accuracy_zero", "accuracy, zero"),
            ("same", "same response"), ("finished_spliced", "finished"))),
    ]  # fmt: skip
    return [figure, _table(frame, keys, SOLVING, f"{what}; flips: without / with the SAE", "solving_all")]


def _causal(evidence: Evidence, gallery: Gallery, frame: Table) -> list[Html]:
    needed = [*CELL, "action", "group", "strength", *_ends("kl"), *_ends("kl_change"), "kl_least", "kl_most"]
    figures = [
        gallery.show(lambda text=text: causal_figure(frame, text), frame, needed, "Single latents", "the table has no rows.")
        for text in _texts(evidence, frame)
    ]
    tails = [Column(name, name.replace("_", " "), number) for name in ("delta_ce_least", "delta_ce_most", "kl_least", "kl_most")]
    keys = _keys("run", "text", "kind", "seed", "layer", "stage", "action", "strength", "group", "members")
    every = _table(frame, [*keys, *tails], CAUSAL, "Interventions on single latents", "causal_all")
    return [*figures, folded("Interventions on single latents, all numbers", every)]


def _ends(name: str) -> list[str]:
    return [f"{name}{end}" for end in ("", "_low", "_high")]


def _texts(evidence: Evidence, frame: Table) -> list[str]:
    """Text sets, that of the headline first; one at least, so that an empty table is said to be empty."""
    found = list(dict.fromkeys(frame["text"])) if "text" in frame else []
    return sorted(found, key=lambda text: text != main_text(evidence)) or [""]


def _keys(*names: str) -> list[Column]:
    numbers = ("seed", "layer", "tokens", "members", "strength", "prompts")
    return [Column(name, name.replace("_", " "), plain if name in numbers else None) for name in names]


def _table(frame: Table, keys: list[Column], estimates: tuple[str, ...], caption: str, name: str) -> Html:
    """Keys and points as they are, estimates with their intervals; the data as a link."""
    there = [estimate for estimate in estimates if estimate in frame]
    shown = {f"{one}_shown": [with_interval(row, one, sign=one in SIGNED) for row in frame.to_dict("records")] for one in there}
    columns = [*keys, *(Column(f"{one}_shown", f"{one.replace('_', ' ')} [interval]", str) for one in there)]
    return joined([table(frame.assign(**shown), columns, caption), element("p", csv_link(frame, name), class_="small")])
