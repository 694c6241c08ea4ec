"""The section on what is measured over stages that read the same rows; what was not measured is left out."""

from workflow.frames import Table
from workflow.report.evidence import Evidence
from workflow.report.joint_figures import COUNTS, crosscoder_figure, representation_figure
from workflow.report.markup import Column, Html, folded, joined, number, percent, plain, with_interval
from workflow.report.sections import Gallery, long_table

EMPTY = "the table has no such rows."


def joint_section(evidence: Evidence, gallery: Gallery) -> Html:
    """Rows before any SAE, and one dictionary for all stages; empty where no paired text was measured."""
    parts = []
    if len(evidence.representation.columns):
        needed = ["run", "text", "layer", "stage", "update", "against", "measure", "value", "low", "high"]
        what = "Rows before any SAE"
        parts.append(gallery.show(lambda: representation_figure(evidence), evidence.representation, needed, what, EMPTY))
        every = long_table(evidence.representation, REPRESENTATION, "Every measure of every pair of stages", "representation_all")
        parts.append(folded("Rows before any SAE, all numbers", every))
    if len(evidence.crosscoder.columns):
        needed = ["run", "layer", "seed", "stage", "update", "alive", *COUNTS]
        what = "One dictionary for all stages"
        parts.append(gallery.show(lambda: crosscoder_figure(evidence), evidence.crosscoder, needed, what, EMPTY))
        parts.append(
            long_table(
                _with_counts(evidence.crosscoder), CROSSCODER, "Crosscoders: latents at each stage beside base", "crosscoder_all"
            )
        )
    if len(evidence.agreement.columns):
        what = "Do crosscoder and chain agree? Latents of the crosscoder by both verdicts, crosscoder first"
        parts.append(long_table(evidence.agreement, AGREEMENT, what, "agreement_all"))
    return joined(parts)


def _with_counts(table: Table) -> Table:
    """The table with every count and its interval as text."""
    rows = table.to_dict("records")
    return table.assign(**{f"{name}_told": [with_interval(row, name) for row in rows] for name in COUNTED if name in table})


COUNTED = ("alive", "shared", "rotated", "new", "gone", "new_confirmed", "gone_confirmed", "shrunk", "decoupled")
CROSSCODER = [
    Column("run", "run"), Column("layer", "layer", plain), Column("seed", "seed", plain), Column("stage", "stage"),
    *(Column(f"{name}_told", name.replace("_", " ")) for name in COUNTED),
    Column("changed_share", "changed", percent), Column("nmse_base", "nmse, base", number), Column("nmse", "nmse, stage", number),
    Column("l0", "l0", number), Column("rows", "rows", plain), Column("prompts", "problems", plain),
]  # fmt: skip
CELLS = [f"{mine}_{theirs}" for mine in ("born", "died", "shared") for theirs in ("born", "died", "shared")]
AGREEMENT = [
    Column("run", "run"), Column("kind", "kind"), Column("seed", "seed", plain), Column("layer", "layer", plain),
    Column("crosscoder_seed", "crosscoder seed", plain), Column("stage", "stage"), Column("alive", "alive", plain),
    Column("cosine_base", "cosine, base", number), Column("cosine", "cosine, stage", number),
    Column("unmatched", "unmatched", plain), Column("replaced", "replaced", plain),
    *(Column(name, name.replace("_", " / "), plain) for name in CELLS),
    Column("agreement", "agree", percent), Column("kappa", "kappa", number),
    Column("chain_born", "born in the chain", plain), Column("chain_born_found", "found", plain),
    Column("chain_died", "died in the chain", plain), Column("chain_died_found", "found", plain),
]  # fmt: skip
REPRESENTATION = [
    Column("run", "run"), Column("text", "text"), Column("layer", "layer", plain), Column("stage", "stage"),
    Column("against", "against"), Column("measure", "measure"), Column("at", "at", number), Column("kind", "kind"),
    Column("seed", "seed", plain), Column("value", "value", number), Column("low", "low", number), Column("high", "high", number),
    Column("rows", "rows", plain), Column("prompts", "problems", plain),
]  # fmt: skip
